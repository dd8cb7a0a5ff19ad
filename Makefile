# The commands of this repository; CI runs them. Only race, tokens, interop and
# bench need more than Go, git and make. One CGO_ENABLED: all share the cache.
export CGO_ENABLED = 0
GO       ?= go
FUZZTIME ?= 10s
RACE     ?= . ./bundle ./manifest ./oci ./referrers ./verify ./cmd/modelsig
MODULES   = interop interop/peers/cosign interop/peers/registry interop/peers/crane interop/peers/tsa interop/peers/rekor interop/peers/oras interop/peers/policy

.DEFAULT_GOAL := help
.PHONY: help build demo test race tokens check fmt vet lint tidy arch interop bench bench-seed fuzz clean
help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1	\2/p' Makefile | awk -F '\t' '{ printf "%-10s %s\n", $$1, $$2 }'

build: ## bin/modelsig
	$(GO) build -o bin/modelsig ./cmd/modelsig

demo: build ## sign a model, verify it, refuse a tampered one: real commands, real output
	@sh ./demo/demo.sh "$(CURDIR)/bin/modelsig"

test: ## all tests of the module, in random order
	$(GO) test -shuffle=on ./...
race: ## the packages' tests under the race detector (needs a C compiler)
	CGO_ENABLED=1 $(GO) test -race $(RACE)
tokens: ## keys in PKCS#11 tokens (needs a C compiler, SoftHSM and OpenSC)
	CGO_ENABLED=1 $(GO) vet -tags pkcs11 ./cmd/modelsig
	CGO_ENABLED=1 $(GO) test -tags pkcs11 -run 'Token|PIN|Module' ./cmd/modelsig

check: fmt vet lint tidy arch ## formatting, vet, staticcheck, go.mod files, imports
fmt: ## fail where gofmt would change a file
	@test -z "$$(gofmt -l .)" || { gofmt -d .; exit 1; }
vet: ## go vet, in both modules
	$(GO) vet ./...
	$(GO) vet -C interop ./...
lint: ## staticcheck, pinned in tools.mod, in both modules
	$(GO) tool -modfile=tools.mod staticcheck ./...
	cd interop && $(GO) tool -modfile=../tools.mod staticcheck ./...
tidy: ## fail where go mod tidy would change a file
	$(GO) mod tidy -diff
	@for m in $(MODULES); do (cd $$m && $(GO) mod tidy -diff) || { echo "$$m: go mod tidy"; exit 1; }; done
	@d=$$(mktemp -d) && cp tools.mod "$$d/go.mod" && cp tools.sum "$$d/go.sum" && (cd "$$d" && $(GO) mod tidy -diff); s=$$?; rm -rf "$$d"; exit $$s
arch: ## the arrows between packages
	$(GO) test -run '^Test(PackagesImport|Violations)' .

interop: ## against cosign, distribution, crane, oras, containers/image, Fulcio, Rekor, a TSA, docker-registry, skopeo (first build: minutes)
	cd interop && $(GO) test -count=1 -timeout 20m .

bench: build ## benchmarks; signing beside cosign; hashing beside openssl
	$(GO) test -run '^$$' -bench . ./...
	cd interop && $(GO) test -count=1 -v -run TestTheCost -bench . -benchtime 5x .
	sh ./bench/hash.sh "$(CURDIR)/bin/modelsig"
bench-seed: build ## sign and verify folders of published sizes (BIG=1: 14 GiB too)
	sh ./bench/seed.sh "$(CURDIR)/bin/modelsig"
fuzz: ## every fuzz target for FUZZTIME, one at a time
	@set -e; ps=$$($(GO) list ./...); for p in $$ps; do list=$$($(GO) test -list '^Fuzz' $$p); \
	for f in $$(echo "$$list" | grep '^Fuzz' || true); do echo "$$p $$f"; \
	run() { $(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x $$p; }; \
	run || run; done; done # once more: the fuzzer may take its own deadline for a failure; an input that fails is kept, and fails again
clean: ## remove what was built
	rm -rf bin
