"""Chat templates."""

import re

from seeds.files import NEXT


def some(expressions, count=3):
    """A few of them a template."""
    expressions = list(expressions)
    for i in range(0, len(expressions), count):
        yield "".join(expressions[i:i + count])


def expressions_of(template):
    """Every expression of a template alone, behind what it sets."""
    sets = "".join(re.findall(r"{% set .*? %}", template))
    for expression in re.findall(r"{{.*?}}(?=[{]|$)", re.sub(r"{% set .*? %}", "", template)):
        yield sets + expression


def template_seeds():
    yield ("{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + (message.content or '')"
           " + '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")
    yield ("{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
           "{% set system = messages[0].content %}{% else %}{% set loop_messages = messages %}{% endif %}"
           "{% for m in loop_messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
           "{{ raise_exception('roles must alternate') }}{% endif %}{{ m.content | trim }}{% endfor %}{{ eos_token }}")
    yield ("{%- macro show(x, n=2) -%}{{ x | upper }}{{ n * 2 }}{%- endmacro -%}"
           "{%- set ns = namespace(last=-1, found=false) -%}{%- for m in messages[::-1] -%}"
           "{%- if m.role == 'user' and not ns.found -%}{%- set ns.found = true -%}{%- set ns.last = loop.revindex -%}"
           "{%- endif -%}{%- endfor -%}{{ show('a') }}{{ ns.last }}{# note #}")
    yield ("{{ messages | tojson(indent=2) }}{{ messages | map(attribute='role') | join(', ') }}"
           "{{ messages | selectattr('role', 'equalto', 'user') | list | length }}"
           "{{ [3, 1] | sort | first }}{{ {'a': 1}.items() | list }}{{ 'x' ~ 1.5 }}{{ 'b' is string }}")
    yield "{% for i in range(9) %}{% if i is odd %}{% continue %}{% endif %}{% break %}{% endfor %}{{ strftime_now('%Y-%m-%d') }}"
    yield "{{ 'a,b'.split(',')[-1].strip().replace('b', 'c').startswith('c') }}{{ 7 // 2 ** 2 % 3 - -1 }}{{ 1 if x is defined else none }}"
    yield "{% generation %}x{% endgeneration %}{{ messages[0].content" + NEXT + '[{"content": [1, {"a": "b"}]}]'
    yield "{% for k, v in messages[0] | items recursive %}{{ loop(v) }}{% else %}{% endfor %}" + NEXT + '[{"a": {"b": {}}}]'
    # Every filter, test and method there is, on texts, numbers and lists. A few a seed: the first
    # error ends a template.
    texts = ("trim", "upper", "lower", "capitalize", "title", "string", "safe", "escape", "length", "first", "last",
             "list", "reverse", "int", "float", "tojson", "indent", "indent(2, true)", "replace('a', 'b', 1)",
             "default('d')", "default('d', true)", "attr('x')", "format(1)", "join('-')", "unique | list")
    yield from some("{{ ' aBc d' | %s }}{{ '%%s\\n<b>' | %s }}" % (f, f) for f in texts)
    numbers = ("abs", "int", "float", "round", "round(1, 'floor')", "round(-1, 'ceil')", "string", "tojson")
    yield from some("{{ -7.25 | %s }}{{ '12' | int | %s }}{{ '0x1F' | int(0, 16) }}" % (f, f) for f in numbers)
    lists = ("sort", "sort(reverse=true)", "sort(case_sensitive=true) | first", "unique | list", "min", "max", "sum",
             "sum(start=1)", "first", "last", "reverse | list", "join(', ')", "map('abs') | list", "length", "tojson",
             "select('odd') | list", "reject('gt', 1) | list", "map('string') | join", "list", "count")
    yield from some("{{ [3, 1, 2, 1] | %s }}" % f for f in lists)
    yield from expressions_of("{% set rows = [{'n': 'b', 'v': {'w': 2}}, {'n': 'a', 'v': {'w': 1}}] %}{{ rows | sort(attribute='v.w') }}"
           "{{ rows | map(attribute='n', default='x') | list }}{{ rows | map(attribute='v.w') | sum }}"
           "{{ rows | selectattr('n') | list }}{{ rows | rejectattr('v.w', 'eq', 1) | list }}"
           "{{ rows | sum('v.w') }}{{ rows | join('|', 'n') }}{{ rows | min(attribute='n') }}{{ rows | max('v.w') }}"
           "{{ rows | unique(attribute='n') | list }}{{ {'b': 1, 'A': 2} | dictsort }}"
           "{{ {'b': 1, 'A': 2} | dictsort(true, 'value', reverse=true) }}{{ {'a': 1} | items | list }}"
           "{{ rows | tojson(true, '  ', [',', ':'], true) }}")
    methods = ("strip()", "lstrip(' a')", "rstrip()", "upper()", "lower()", "title()", "capitalize()", "swapcase()",
               "casefold()", "center(9, '*')", "ljust(9)", "rjust(9, '0')", "zfill(9)", "expandtabs(4)", "split()",
               "split('b', 1)", "rsplit(None, 1)", "splitlines(true)", "partition('b')", "rpartition('b')", "count('a')",
               "find('b', 1)", "rfind('b')", "index('b')", "rindex('b')", "startswith(('a', ' '))", "endswith('d', 0, 3)",
               "removeprefix(' ')", "removesuffix('d')", "replace('a', 'x', 1)", "join(['1', '2'])", "isalnum()",
               "isalpha()", "isascii()", "isdecimal()", "isdigit()", "isidentifier()", "islower()", "isnumeric()",
               "isprintable()", "isspace()", "istitle()", "isupper()", "encode()", "format(1)", "format_map({})")
    yield from some("{{ ' ab\\tcd' .%s }}" % m for m in methods)
    yield from expressions_of("{{ '{} {1} {0!r:>5} {a.b[c]:^+08.2f} {{}}'.format(1, 'x', a={'b': {'c': 2.5}}) }}"
           "{{ '%s %5d %-6.2f %x %o %e %g %c %% %(a)s' | format(1, 2, 3.5, 4, 5, 6.5, 7.5, 'c') }}"
           "{{ '%(a)s %(b)05d' % {'a': 1, 'b': 2} }}{{ '{:,} {:_} {:b} {:o} {:X} {:e} {:g} {:%} {:n}'.format(1234567, 1, 5, 8, 255, 1.5, 2.5, .5, 3) }}"
           "{{ '{:<4}|{:>4}|{:^4}|{:=+5}'.format('a', 'b', 'c', 4) }}{{ '{0[1]} {0.x}'.format([1, 2]) }}")
    yield from expressions_of("{% set l = [2, 1] %}{{ l.append(3) }}{{ l.insert(0, 9) }}{{ l.pop() }}{{ l.extend([4]) }}{{ l.remove(9) }}"
           "{{ l.index(1) }}{{ l.count(1) }}{{ l.sort() }}{{ l.reverse() }}{{ l.copy() }}{{ l.clear() }}"
           "{% set d = {'a': 1} %}{{ d.get('b', 2) }}{{ d.keys() | list }}{{ d.values() | list }}{{ d.update({'c': 3}) }}"
           "{{ d.setdefault('e', 4) }}{{ d.pop('a') }}{{ d.popitem() }}{{ d.copy() }}{{ d.clear() }}")
    tests = ("defined", "undefined", "none", "boolean", "true", "false", "integer", "float", "number", "string",
             "mapping", "iterable", "sequence", "callable", "sameas(x)", "lower", "upper", "eq(1)", "ne 1", "in [1]")
    yield from some("{%% set x = 'a' %%}{{ x is %s }}{{ 1 is not %s }}" % (t, t) for t in tests)
    yield from expressions_of("{{ 4 is divisibleby 2 }}{{ 3 is odd }}{{ 3 is even }}{{ 1 is lt 2 }}{{ 1 is le 2 }}{{ 1 is gt 2 }}{{ 1 is ge 2 }}"
           "{{ 1 + 2 * 3 - 4 / 5 // 1 % 2 ** 2 }}{{ [1] + [2] }}{{ 'a' * 3 }}{{ [1, 2] * 2 }}{{ (1, 2) < (1, 3) }}"
           "{{ 'a' ~ none ~ true }}{{ 1 == 1.0 }}{{ {'a': 1} == {'a': 1} }}{{ 'b' in 'abc' }}{{ 2 not in [1] }}"
           "{{ not (1 and 0 or 2) }}{{ 1.5e3 }}{{ 9223372036854775807 - 1 }}{{ -5 // 3 }}{{ -5 % 3 }}{{ 2 ** -1 }}"
           "{{ 'abc'[::-1] }}{{ [1, 2, 3][-2:] }}{{ 'abc'[5:1:-2] }}{{ ('a', 1)[0] }}{{ 1 < 2 < 3 }}")
    yield "{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.current }}{{ c.reset() }}"
    yield "{% set j = joiner(', ') %}{{ j() }}{{ j() }}{{ dict(a=1, b=2) }}{{ range(5, 0, -2) | list }}{{ namespace(a=1).a }}"
    yield ("{% with a = 1, b = 2 %}{{ a + b }}{% endwith %}{% raw %}{{ x }}{% endraw %}"
           "{% filter upper | replace('A', 'b') %}a{% endfilter %}{% set t %}x{{ 1 }}{% endset %}{{ t }}"
           "{% call(x) m() %}{{ x }}{% endcall %}{% macro m() %}{{ caller(1) }}{{ varargs }}{{ kwargs }}{% endmacro %}"
           "{% if 0 %}{% elif 1 %}{% else %}{% endif %}")
    yield ("{% for a, (b, c) in [(1, (2, 3))] if a %}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.previtem }}"
           "{{ loop.nextitem }}{{ loop.cycle(1, 2) }}{{ loop.changed(a) }}{{ loop.depth }}{% endfor %}")
