#!/bin/sh
# Install Debian's chromium, unless a Chromium is there already; say what to do where it may not.
for name in "${CHROMIUM:-chromium}" chromium-browser google-chrome chrome; do
    command -v "$name" >/dev/null && exit 0
done
as_root=$([ "$(id -u)" = 0 ] || echo "sudo -n")
if command -v apt-get >/dev/null && $as_root true 2>/dev/null; then
    echo "installing Debian's chromium"
    export DEBIAN_FRONTEND=noninteractive
    $as_root apt-get update -qq && $as_root apt-get install -y -qq chromium >/dev/null && exit 0
fi
echo "The browser tests need Chromium, and this user may not install it: install it yourself" \
    "(on Debian: sudo apt-get install chromium) or set CHROMIUM to its path, then try again." >&2
exit 1
