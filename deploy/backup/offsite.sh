#!/bin/sh
# Encrypts what is new in the folder of backup.sh for another host, and removes what is no longer there:
#
#   offsite.sh FOLDER COPY RECIPIENTS    RECIPIENTS is a file with public keys of age; only their owners can read COPY
set -eu
from=$1 to=$2 recipients=$3
umask 077
# Without this, a folder that is not mounted would empty the copy.
[ -n "$(find "$from/" -mindepth 2 -maxdepth 2 -path '*/2*Z/base-*')" ] || { echo "$from has no base backup" >&2; exit 1; }
mkdir -p "$to"
(cd "$from" && find . -type f \( -path './2*Z/base-*' -o -path './2*Z/wal/*' \)) | while read -r file; do
  copy=$to/$file.gz.age
  case $file in *.partial) ;; *) [ ! -e "$copy" ] || continue ;; esac # an incomplete file of WAL grows
  mkdir -p "$(dirname "$copy")"
  rm -f "$copy.unread"
  { gzip -1 <"$from/$file" || touch "$copy.unread"; } | age -R "$recipients" >"$copy.new"
  if [ -e "$copy.unread" ]; then
    [ ! -e "$from/$file" ] || exit 1 # otherwise it was removed, or is complete and has another name
  else
    mv "$copy.new" "$copy"
  fi
done
(cd "$to" && find . -type f -path './2*Z/*') | while read -r copy; do
  [ -e "$from/${copy%.gz.age}" ] || rm "$to/$copy" # and what an interrupted run left
done
find "$to" -mindepth 1 -type d -empty -delete
