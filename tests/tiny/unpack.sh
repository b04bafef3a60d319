#!/usr/bin/env bash
# Makes a prefix for TINY_SPEECH_PREFIX from Debian packages, for a machine where none can be installed:
#   tests/tiny/unpack.sh DEBS PREFIX
# DEBS holds the .deb files of espeak-ng-data, libespeak-ng1, libflite1, libsonic0 and libasound2.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$2/usr/lib/x86_64-linux-gnu"
for file in "$1"/*.deb; do dpkg -x "$file" "$2"; done
rm -f "$2"/usr/lib/x86_64-linux-gnu/libpcaudio.so*
cc -shared -fPIC -w -Wl,-soname,libpcaudio.so.0 -o "$2/usr/lib/x86_64-linux-gnu/libpcaudio.so.0" "$here/pcaudio_stub.c"
