#!/usr/bin/env bash
# Installs what building needs from Debian 12 or Ubuntu 24.04, once; says what it installs.
set -euo pipefail
packages=(g++ cmake ninja-build pkg-config python3 python3-pip git zstd unzip
  libcli11-dev libspdlog-dev libfmt-dev nlohmann-json3-dev libtomlplusplus-dev
  libsentencepiece-dev libpcre2-dev libutf8proc-dev libxxhash-dev libgtest-dev libgmock-dev)

missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0

if ! command -v apt-get >/dev/null; then
  echo "error: this system has no apt-get; install by hand: ${missing[*]}" >&2
  exit 1
fi
sudo=
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || { echo "error: run as root, or install sudo; needed: ${missing[*]}" >&2; exit 1; }
  sudo=sudo
fi
echo "Installing with apt-get: ${missing[*]}" >&2
$sudo apt-get update -qq
$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
