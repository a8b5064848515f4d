#!/bin/sh
# Create a CA, and certificates for a ZooKeeper server and a launcher, for one year: certificates.sh FOLDER [NAME...]
# The server is called zookeeper and localhost, and by each NAME. Existing files are kept.
set -eu
folder=${1:?the folder to make certificates in}
shift
names=DNS:zookeeper,DNS:localhost,IP:127.0.0.1
for name in "$@"; do names=$names,DNS:$name; done

umask 077
mkdir -p "$folder"
chmod 700 "$folder" # containers of any user can read the files mounted into them; other users can't
cd "$folder"
[ ! -e ca.key ] || exit 0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

openssl req -x509 -newkey rsa:3072 -nodes -days 365 -subj '/CN=nodelaunch CA' -keyout ca.key -out ca.crt 2>/dev/null
for who in server client; do
    printf 'subjectAltName=%s\n' "$names" >"$work/names"
    [ $who = server ] || echo 'extendedKeyUsage=clientAuth' >"$work/names"
    openssl req -newkey rsa:3072 -nodes -subj "/CN=nodelaunch $who" -keyout $who.key -out "$work/request" 2>/dev/null
    openssl x509 -req -days 365 -in "$work/request" -CA ca.crt -CAkey ca.key -CAcreateserial -extfile "$work/names" \
        -out $who.crt 2>/dev/null
done
cat server.key server.crt >server.pem # the form that ZooKeeper needs
chmod 644 ca.crt client.crt client.key server.pem # files that are mounted into containers
