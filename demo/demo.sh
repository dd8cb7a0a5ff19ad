#!/bin/sh
# The main job, start to end, on a registry in memory: push, sign, verify,
# tamper, see the refusal. It prints the commands it runs. Usage: demo.sh BINARY
set -eu

modelsig=$1
work=$(mktemp -d)
registry=
cleanup() {
	[ -z "$registry" ] || kill "$registry" 2>/dev/null || true
	rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# What is printed is what is run; the binary's own folder is left out.
say() { printf '\n$ %s\n' "$*"; }
run() {
	say "$@"
	"$@"
}
modelsig() { "$modelsig" "$@"; }

cd "$work"
mkfifo address
"$modelsig" registry --listen 127.0.0.1:0 >address &
registry=$!
read -r line <address
host=${line#Listening on }
ref=$host/acme/tiny:v1

mkdir -p tiny/tokenizer
echo '{"architectures": ["TinyForCausalLM"], "hidden_size": 8}' >tiny/config.json
echo '{"vocab": {"a": 0, "b": 1}}' >tiny/tokenizer/tokenizer.json
head -c 1048576 /dev/zero | tr '\0' 'w' >tiny/model.safetensors

echo "A model of three files, and a registry on $host."
run modelsig keygen --no-password --output release
run modelsig push tiny "$ref"
run modelsig sign key "$ref" --private-key release.key
run modelsig verify key "$ref" --public-key release.pub

printf '\nSomebody swaps the weights, and pushes the model again under its tag.\n'
say "printf x >>tiny/model.safetensors"
printf x >>tiny/model.safetensors
run modelsig push tiny "$ref"

status=0
run modelsig verify key "$ref" --public-key release.pub || status=$?
[ "$status" -eq 1 ] || { echo "expected a refusal (exit 1), got exit $status" >&2; exit 1; }

printf '\nSomebody changes one byte of a folder that was pulled, after it was signed.\n'
run modelsig sign key tiny --private-key release.key
say "printf y >>tiny/config.json"
printf y >>tiny/config.json
status=0
run modelsig verify key tiny --public-key release.pub || status=$?
[ "$status" -eq 1 ] || { echo "expected a refusal (exit 1), got exit $status" >&2; exit 1; }

printf '\nRefused, both times: exit 1.\n'
