#!/bin/sh
# What hashing a folder takes, beside openssl, on the same bytes in one run:
#
#	bench/hash.sh MODELSIG
#
# Each line is the median of the wall time of whole processes, run in turn, and
# the ratio ours / theirs. It writes 9 GiB below BENCH_DIR (default: the folder
# for temporary files) and removes them. RUNS (default 3) is how often each
# command runs. Cold rows need the right to drop the page cache. Linux only.
set -eu
modelsig=$1
runs=${RUNS:-3}
dir=$(mktemp -d "${BENCH_DIR:-${TMPDIR:-/tmp}}/modelsig-bench.XXXXXX")
trap 'rm -rf "$dir"' EXIT INT TERM
cd "$dir"

now() { date +%s%N; }
wall() { # runs a command, prints nanoseconds
	start=$(now)
	"$@" >/dev/null
	echo $(($(now) - start))
}
median() { sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }
cold() { sync && echo 3 >/proc/sys/vm/drop_caches; }
ours() { "$modelsig" digest "$@"; }
archived() { tar -cf - "$1" | openssl dgst -sha256; }
plain() { openssl dgst -sha256 "$@"; }

# row NAME AIM RUNS PREPARE THEIRS... -- OURS...
row() {
	name=$1 aim=$2 n=$3 prepare=$4
	shift 4
	: >a; : >b
	i=0
	while [ $i -lt "$n" ]; do
		$prepare
		wall "$1" $2 >>b
		$prepare
		wall ours $3 >>a
		i=$((i + 1))
	done
	a=$(median <a) b=$(median <b)
	awk -v name="$name" -v a="$a" -v b="$b" -v aim="$aim" 'BEGIN { printf "%-44s %8.2f s %8.2f s   %5.2f   %s\n", name, b / 1e9, a / 1e9, a / b, aim }'
}

echo "$(nproc) processors; $(openssl version)" | cut -c1-72
mkdir eight one small
for i in 1 2 3 4 5 6 7 8; do head -c 512M /dev/urandom >eight/$i.bin; done
cat eight/*.bin >one/model.bin
awk 'BEGIN { for (i = 0; i < 100; i++) printf "%03d\n", i }' | while read -r d; do
	mkdir "small/$d"
	head -c 4096000 /dev/urandom | split -b 4096 -a 3 -d - "small/$d/part-"
done
cat eight/*.bin one/model.bin >/dev/null

printf '%-44s %10s %10s   %5s   %s\n' "warm cache" "openssl" modelsig ratio aim
row "8 x 512 MiB, sha256" "<= 0.55" "$runs" true plain "eight/1.bin eight/2.bin eight/3.bin eight/4.bin eight/5.bin eight/6.bin eight/7.bin eight/8.bin" "eight"
row "1 x 4 GiB, sha256" "<= 0.85" "$runs" true plain one/model.bin one
row "1 x 4 GiB, sha256, shards" "<= 0.55" "$runs" true plain one/model.bin "one --shards"
row "1 x 4 GiB, blake3, shards" "<= 0.36" "$runs" true plain one/model.bin "one --shards --hash blake3"
row "100,000 x 4 KiB, sha256 (beside tar | openssl)" "<= 1.5" "$runs" true archived small small
if (cold) 2>/dev/null; then
	printf '%-44s %10s %10s   %5s   %s\n' "cold cache" cat modelsig ratio aim
	row "8 x 512 MiB, sha256" "<= 1.15" 5 cold cat "eight/1.bin eight/2.bin eight/3.bin eight/4.bin eight/5.bin eight/6.bin eight/7.bin eight/8.bin" eight
	row "1 x 4 GiB, sha256" "<= 1.15" 5 cold cat one/model.bin one
else
	echo "cold cache: the page cache cannot be dropped here"
fi
