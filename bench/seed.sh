#!/bin/sh
# Signing and verifying folders of the sizes that were published for the OMS
# tools (seconds on machines with 2 and with 48 processors):
#
#	bench/seed.sh MODELSIG
#
# Each time is the median of whole processes. It writes up to 7 GiB (BIG=1:
# 21 GiB) below BENCH_DIR (default: the folder for temporary files) and removes
# them. RUNS (default 3) is how often each command runs. Linux only.
set -eu
modelsig=$1
runs=${RUNS:-3}
dir=$(mktemp -d "${BENCH_DIR:-${TMPDIR:-/tmp}}/modelsig-seed.XXXXXX")
trap 'rm -rf "$dir"' EXIT INT TERM
cd "$dir"

now() { date +%s%N; }
median() { sort -n | awk '{ v[NR] = $1 } END { printf "%.2f", v[int((NR + 1) / 2)] / 1e9 }'; }
timed() { # prints the median of a command's wall times
	i=0
	while [ $i -lt "$runs" ]; do
		start=$(now)
		"$@" >/dev/null
		echo $(($(now) - start))
		i=$((i + 1))
	done | median
}
fill() { # FOLDER MIB: weights in files of at most 1 GiB
	mkdir "$1"
	echo '{"architectures": ["Tiny"]}' >"$1/config.json"
	left=$2 n=1
	while [ "$left" -gt 0 ]; do
		size=$((left < 1024 ? left : 1024))
		head -c "${size}M" /dev/urandom >"$1/model-$n.safetensors"
		left=$((left - size)) n=$((n + 1))
	done
}

"$modelsig" keygen --output key --no-password >/dev/null
echo "$(nproc) processors"
printf '%-8s %-7s %9s %9s   %s\n' size method sign verify "published, 2 and 48 processors"
row() { # SIZE MIB PUBLISHED
	fill "$1" "$2"
	[ "$2" -gt 0 ] || head -c 8192 /dev/urandom >"$1/model.safetensors"
	cat "$1"/* >/dev/null
	for method in files shards; do
		flag=
		[ $method = files ] || flag=--shards
		printf '%-8s %-7s %7s s %7s s   %s\n' "$1" $method \
			"$(timed "$modelsig" sign key "$1" --private-key key.key --signature "$1.sig" $flag)" \
			"$(timed "$modelsig" verify key "$1" --public-key key.pub --signature "$1.sig")" "$3"
	done
	rm -r "$1"
}
row 8K 0 "1.1 s, 1 s"
row 215M 215 "1.9 s, 1 s"
row 2.8G 2867 "13.8 s, 1.9 s"
row 3.3G 3379 "22.7 s, 1.6 s"
[ -z "${BIG:-}" ] || row 14G 14336 "121 s, 2.1 s"
