#!/usr/bin/env python3
"""Documents that ask for what stands far back, for extensions that shall find it: one JSONL file.

Each is a window of a book with one of three exercises in it:
  facts     sentences such as "The locker number of Clara Whitfield is 48213.", asked for later and at the end
  register  a list of names and numbers, and the same names again in another order behind a stretch of the book
  passages  paragraphs of other books that stand in it twice
Documents have about 4K, 8K, 16K, 32K and 64K tokens (4 bytes a token), 25, 25, 20, 15 and 15 % of the bytes. None of
the sentences of `longgen eval` (pass keys, sandwiches) are among them. Same arguments, same bytes.
"""
import argparse
import json
import pathlib
import random

KTOKENS = {4: 0.25, 8: 0.25, 16: 0.20, 32: 0.15, 64: 0.15}
BYTES_PER_TOKEN = 3.9  # a little below what tokenizers reach on books, so that documents are not cut
FAR = int(2300 * BYTES_PER_TOKEN)  # beyond the window of a sink-window layer

FIRST = ("Clara Edwin Harriet Silas Beatrice Rufus Matilda Ambrose Florence Gilbert Josephine Oswald Adelaide Lionel "
         "Rosalind Percival Winifred Horace Cordelia Barnaby Eugenia Thaddeus Millicent Jasper").split()
LAST = ("Whitfield Harcourt Penrose Ashdown Lockwood Merriman Thornbury Fairchild Blackmore Wetherby Pemberton Hale "
        "Kingsley Ravenscroft Tillotson Underhill Vickers Marlowe Standish Cavendish").split()
ATTRIBUTES = ("locker number", "telephone number", "account number", "ticket number", "badge number", "postal code",
              "membership number", "room code", "licence number", "order number", "seat code", "case number")
STATEMENTS = (" The {what} of {who} is {value}.", " Note that the {what} of {who} is {value}.",
              "\n\nFor the record: the {what} of {who} is {value}.\n\n", " {who}'s {what}: {value}.",
              "\nImportant: {value} is the {what} of {who}.\n")
QUESTIONS = (" What is the {what} of {who}? The {what} of {who} is {value}.",
             "\n\nQuestion: What is the {what} of {who}?\nAnswer: The {what} of {who} is {value}.\n\n",
             " As was said, the {what} of {who} is {value}.",
             "\nQ: Give the {what} of {who}.\nA: {value}\n")


def number(rng):
    return str(rng.randint(1, 50000)) if rng.random() < 0.3 else f"{rng.randrange(100000):05}"


def people(rng, count):
    return [f"{first} {last}" for first, last in
            rng.sample([(first, last) for first in FIRST for last in LAST], count)]


class Books:
    def __init__(self, folder):
        if not folder.is_dir():
            raise SystemExit(f"error: {folder} is no folder")
        self.texts = [path.read_text(encoding="utf-8", errors="replace") for path in sorted(folder.rglob("*.txt"))]
        self.texts = [text for text in self.texts if len(text) > 70000 * BYTES_PER_TOKEN]
        if not self.texts:
            raise SystemExit(f"error: {folder}: no .txt file has {70000 * BYTES_PER_TOKEN:.0f} characters, a little more than "
                             "the longest document; put books there")

    def window(self, rng, length):
        text = rng.choices(self.texts, weights=[len(text) for text in self.texts])[0]
        begin = rng.randrange(len(text) - length)
        return text[begin:begin + length]


def sentence_end(text, place):
    stop = text.find(". ", place, place + 200)
    return stop + 1 if stop >= 0 else place


def assemble(filler, inserts, ending):
    """inserts: (place in bytes of the filler, text), put behind the next full stop."""
    parts, last = [], 0
    for place, text in sorted(inserts, key=lambda insert: insert[0]):
        at = max(last, sentence_end(filler, min(place, len(filler))))
        parts += [filler[last:at], text]
        last = at
    return "".join(parts) + filler[last:] + ending


def facts(rng, books, length):
    count = max(4, min(48, length // 2500))
    filler = books.window(rng, length - 140 * count)
    inserts, ending = [], []
    for who in people(rng, count):
        what, value = rng.choice(ATTRIBUTES), number(rng)
        fact = {"who": who, "what": what, "value": value}
        place = rng.randrange(len(filler))
        inserts.append((place, rng.choice(STATEMENTS).format(**fact)))
        question = rng.choice(QUESTIONS).format(**fact)
        if place + FAR < len(filler) and rng.random() < 0.6:
            inserts.append((rng.randrange(place + FAR, len(filler)), question))
        else:
            ending.append(question)
    rng.shuffle(ending)
    return assemble(filler, inserts, "".join(ending))


def register(rng, books, length):
    what = rng.choice(ATTRIBUTES)
    entries = [(who, number(rng)) for who in people(rng, max(8, min(80, length // 1600)))]
    line = rng.choice(("{}: {}\n", "{} -- {}\n", "{} has {}.\n"))
    listed = f"\n\nThe {what}s of everybody:\n" + "".join(line.format(*entry) for entry in entries) + "\n"
    asked = rng.sample(entries, len(entries))
    again = f"\n\nOnce more, in another order, the {what}s:\n" + "".join(line.format(*entry) for entry in asked)
    filler = books.window(rng, max(1000, length - len(listed) - len(again)))
    return assemble(filler, [(rng.randrange(max(1, len(filler) - FAR)), listed)], again)


def passages(rng, books, length):
    filler = books.window(rng, int(length * 0.7))
    inserts, left = [], length - len(filler)
    while left > 800:
        passage = "\n\n" + books.window(rng, rng.randrange(400, 1600)).strip() + "\n\n"
        first = rng.randrange(max(1, len(filler) - FAR))
        inserts += [(first, passage), (rng.randrange(min(first + FAR, len(filler) - 1), len(filler)), passage)]
        left -= 2 * len(passage)
    return assemble(filler, inserts, "")


def documents(rng, books, total):
    kinds, written = (facts, facts, register, passages, passages), {k: 0 for k in KTOKENS}
    while sum(written.values()) < total:
        # The length that is furthest behind its share.
        ktokens = min(KTOKENS, key=lambda k: written[k] / KTOKENS[k])
        length = int(rng.uniform(0.8, 0.97) * ktokens * 1024 * BYTES_PER_TOKEN)
        text = rng.choice(kinds)(rng, books, length)[:int(ktokens * 1024 * BYTES_PER_TOKEN)]
        written[ktokens] += len(text)
        yield text


def size_in_bytes(text):
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    size = int(text[:-1]) * units[text[-1]] if text[-1:] in units else int(text)
    if size < 1:
        raise ValueError
    return size


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--books", type=pathlib.Path, required=True, help="folder of .txt files")
    parser.add_argument("-o", "--output", type=pathlib.Path, required=True)
    parser.add_argument("--bytes", type=size_in_bytes, default=20 << 20, help="about so many in all, such as 20M")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    rng, books = random.Random(args.seed), Books(args.books)
    aside = args.output.with_name(args.output.name + ".tmp")
    try:
        with aside.open("w", encoding="utf-8") as out:
            for text in documents(rng, books, args.bytes):
                out.write(json.dumps({"text": text}) + "\n")
        aside.replace(args.output)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise SystemExit(f"error: cannot write {args.output}: {error.strerror}")


if __name__ == "__main__":
    main()
