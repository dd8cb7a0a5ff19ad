package verify_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/modelsig/modelsig/bundle"
	"github.com/modelsig/modelsig/manifest"
	"github.com/modelsig/modelsig/verify"
)

// Each statement is signed by the right key, and differs from a good one in
// one thing. The root is made again from the resources, except where it is the
// thing, so that no other rule refuses first. says is what the refusal names.
func TestEveryRefusalOfAModelStatement(t *testing.T) { // OMS §5, §6, §8.3
	k := newKey(t)
	resource := func(st map[string]any, i int) map[string]any { return resourcesOf(st)[i].(map[string]any) }
	predicate := func(st map[string]any) map[string]any { return st["predicate"].(map[string]any) }
	name := func(name string) func(map[string]any) {
		return func(st map[string]any) { resource(st, 0)["name"] = name }
	}
	digest := func(f func(hex string) any) func(map[string]any) {
		return func(st map[string]any) { r := resource(st, 0); r["digest"] = f(r["digest"].(string)) }
	}
	root := func(f func(hex string) any) func(map[string]any) {
		return func(st map[string]any) {
			d := subject(st)["digest"].(map[string]any)
			d["sha256"] = f(d["sha256"].(string))
		}
	}
	const fixed = true // the root stays what the row makes of it
	for _, tt := range []struct {
		name   string
		change func(st map[string]any)
		code   string
		says   string
		root   bool
	}{
		// in-toto Statement v1
		{"another _type", func(st map[string]any) { st["_type"] = "https://in-toto.io/Statement/v0.1" }, verify.CodeNotApproval, "_type", false},
		{"_type in another spelling", func(st map[string]any) { st["_type"] = "https://in-toto.io/statement/v1" }, verify.CodeNotApproval, "_type", false},
		{"no _type", func(st map[string]any) { delete(st, "_type") }, verify.CodeNotApproval, "_type", false},
		{"_type that is a list", func(st map[string]any) { st["_type"] = []any{st["_type"]} }, verify.CodeMalformed, "_type", false},
		{"no predicateType", func(st map[string]any) { delete(st, "predicateType") }, verify.CodeMalformed, "predicateType", false},
		{"an empty predicateType", func(st map[string]any) { st["predicateType"] = "" }, verify.CodeMalformed, "predicateType", false},
		{"an attestation's predicateType", func(st map[string]any) { st["predicateType"] = "https://slsa.dev/provenance/v1" }, verify.CodeNotApproval, "slsa.dev", false},
		{"OMS v0.1", func(st map[string]any) { st["predicateType"] = "https://model_signing/signature/v0.1" }, verify.CodeNotApproval, "v0.1", false},
		{"OMS v2.0", func(st map[string]any) { st["predicateType"] = "https://model_signing/signature/v2.0" }, verify.CodeNotApproval, "v2.0", false},
		{"OMS of no minor version", func(st map[string]any) { st["predicateType"] = "https://model_signing/signature/v1" }, verify.CodeNotApproval, "does not approve", false},
		{"OMS with a space behind", func(st map[string]any) { st["predicateType"] = manifest.PredicateType + " " }, verify.CodeNotApproval, "does not approve", false},
		{"OMS in capitals", func(st map[string]any) { st["predicateType"] = "https://model_signing/Signature/v1.0" }, verify.CodeNotApproval, "does not approve", false},
		{"OMS over another scheme", func(st map[string]any) { st["predicateType"] = "http://model_signing/signature/v1.0" }, verify.CodeNotApproval, "does not approve", false},
		{"no predicate", func(st map[string]any) { delete(st, "predicate") }, verify.CodeMalformed, "predicate", fixed},
		{"a predicate that is null", func(st map[string]any) { st["predicate"] = nil }, verify.CodeMalformed, "predicate", fixed},
		{"a predicate that is a string", func(st map[string]any) { st["predicate"] = "{}" }, verify.CodeMalformed, "predicate", fixed},
		{"a member that nobody knows", func(st map[string]any) { st["x"] = 1 }, verify.CodeMalformed, `"x"`, false},
		{"a member in another case", func(st map[string]any) { st["Subject"] = st["subject"] }, verify.CodeMalformed, `"Subject"`, false},

		// Subject: OMS §6.5
		{"no subject", func(st map[string]any) { st["subject"] = []any{} }, verify.CodeMalformed, "no subject", fixed},
		{"subject absent", func(st map[string]any) { delete(st, "subject") }, verify.CodeMalformed, "no subject", fixed},
		{"a subject that is no list", func(st map[string]any) { st["subject"] = subject(st) }, verify.CodeMalformed, "not an array", fixed},
		{"the right subject twice", func(st map[string]any) { st["subject"] = []any{subject(st), subject(st)} }, verify.CodeMalformed, "2 subjects", fixed},
		{"the right subject and another", func(st map[string]any) {
			st["subject"] = []any{subject(st), map[string]any{"name": "other", "digest": map[string]any{"sha256": flipHex(strings.Repeat("00", 32))}}}
		}, verify.CodeMalformed, "2 subjects", fixed},
		{"a subject without a name", func(st map[string]any) { delete(subject(st), "name") }, verify.CodeMalformed, "no name", false},
		{"a subject with an empty name", func(st map[string]any) { subject(st)["name"] = "" }, verify.CodeMalformed, "no name", false},
		{"a subject without a digest", func(st map[string]any) { subject(st)["digest"] = map[string]any{} }, verify.CodeMalformed, "no digest", fixed},
		{"a subject with sha512 alone (rule 31)", func(st map[string]any) { subject(st)["digest"] = map[string]any{"sha512": strings.Repeat("ab", 64)} }, verify.CodeMalformed, "no sha256", fixed},
		{"a root in capitals", root(func(h string) any { return strings.ToUpper(h) }), verify.CodeMalformed, "lower-case", fixed},
		{"a root cut short", root(func(h string) any { return h[:62] }), verify.CodeMalformed, "lower-case", fixed},
		{"a root with its algorithm", root(func(h string) any { return "sha256:" + h }), verify.CodeMalformed, "lower-case", fixed},
		{"a root that is a number", root(func(string) any { return 1 }), verify.CodeMalformed, "not a string", fixed},
		{"a root with one bit wrong", root(func(h string) any { return flipHex(h) }), verify.CodeMalformed, "root digest", fixed},
		{"the root of another order", func(st map[string]any) { slices.Reverse(resourcesOf(st)) }, verify.CodeMalformed, "root digest", fixed},
		{"the root of other digests", digest(func(h string) any { return flipHex(h) }), verify.CodeMalformed, "root digest", fixed},

		// Predicate: OMS §5.2
		{"no resources", func(st map[string]any) { delete(predicate(st), "resources") }, verify.CodeMalformed, "without resources", fixed},
		{"empty resources", func(st map[string]any) { predicate(st)["resources"] = []any{} }, verify.CodeMalformed, "without files", false},
		{"resources that are null", func(st map[string]any) { predicate(st)["resources"] = nil }, verify.CodeMalformed, "resources", fixed},
		{"resources by name", func(st map[string]any) { predicate(st)["resources"] = map[string]any{"config.json": resource(st, 0)} }, verify.CodeMalformed, "resources", fixed},
		{"no serialization", func(st map[string]any) { delete(predicate(st), "serialization") }, verify.CodeMalformed, "without serialization", false},
		{"a member of the predicate that nobody knows", func(st map[string]any) { predicate(st)["x"] = 1 }, verify.CodeMalformed, `"x"`, false},
		{"resources in another case beside them", func(st map[string]any) { predicate(st)["Resources"] = []any{} }, verify.CodeMalformed, `"Resources"`, false},

		// Resources: OMS §5.2.1, §6.1.2
		{"one name twice", func(st map[string]any) { resource(st, 1)["name"] = "config.json" }, verify.CodeMalformed, "two files have this name", false},
		{"one resource twice", func(st map[string]any) { keep(st, 0, 0, 1) }, verify.CodeMalformed, "two files have this name", false},
		{"a file that is another's folder", func(st map[string]any) { resource(st, 0)["name"] = "weights" }, verify.CodeMalformed, `"weights"`, false},
		{"a name that climbs", name("../config.json"), verify.CodeMalformed, `"../config.json"`, false},
		{"a name that climbs in the middle", name("a/../../config.json"), verify.CodeMalformed, `"a/../../config.json"`, false},
		{"a name that goes up and down", name("weights/../config.json"), verify.CodeMalformed, `"weights/../config.json"`, false},
		{"an absolute name", name("/config.json"), verify.CodeMalformed, `"/config.json"`, false},
		{"a name with a dot before it", name("./config.json"), verify.CodeMalformed, `"./config.json"`, false},
		{"a name with a slash behind it", name("config.json/"), verify.CodeMalformed, `"config.json/"`, false},
		{"a name with two slashes", name("a//config.json"), verify.CodeMalformed, `"a//config.json"`, false},
		{"a name for Windows", name(`a\config.json`), verify.CodeMalformed, `"a\\config.json"`, false},
		{"a drive", name("C:/config.json"), verify.CodeMalformed, `"C:/config.json"`, false},
		{"an empty name", name(""), verify.CodeMalformed, "empty", false},
		{"the parent", name(".."), verify.CodeMalformed, `".."`, false},
		{"the folder itself among files", name("."), verify.CodeMalformed, `"."`, false},
		{"a name with a line feed", name("config.json\n"), verify.CodeMalformed, `"config.json\n"`, false},
		{"a name with NUL", name("config.json\x00"), verify.CodeMalformed, `"config.json\x00"`, false},
		{"a name longer than any", name(strings.Repeat("a/", 3000) + "b"), verify.CodeMalformed, "bytes", false},
		{"no name", func(st map[string]any) { delete(resource(st, 0), "name") }, verify.CodeMalformed, "missing", false},
		{"a name that is a number", func(st map[string]any) { resource(st, 0)["name"] = 1 }, verify.CodeMalformed, "not a string", false},
		{"a name that is there a second time in capitals", func(st map[string]any) { resource(st, 0)["Name"] = "x" }, verify.CodeMalformed, `"Name"`, false},
		{"a digest in capitals", digest(func(h string) any { return strings.ToUpper(h) }), verify.CodeMalformed, "lower-case", false},
		{"a digest cut short", digest(func(h string) any { return h[:62] }), verify.CodeMalformed, "31 bytes", false},
		{"a digest that is too long", digest(func(h string) any { return h + "00" }), verify.CodeMalformed, "33 bytes", false},
		{"a digest of half a byte", digest(func(h string) any { return h[:63] }), verify.CodeMalformed, "lower-case", fixed},
		{"a digest that is no hex", digest(func(h string) any { return "g" + h[1:] }), verify.CodeMalformed, "lower-case", fixed},
		{"a digest with its algorithm", digest(func(h string) any { return "sha256:" + h }), verify.CodeMalformed, "lower-case", fixed},
		{"an empty digest", digest(func(string) any { return "" }), verify.CodeMalformed, "lower-case", false},
		{"a digest by algorithm, as in-toto has it", digest(func(h string) any { return map[string]any{"sha256": h} }), verify.CodeMalformed, "not a string", fixed},
		{"no digest", func(st map[string]any) { delete(resource(st, 0), "digest") }, verify.CodeMalformed, "missing", fixed},
		{"digests whose border was moved", func(st map[string]any) {
			a, b := resource(st, 0)["digest"].(string), resource(st, 1)["digest"].(string)
			resource(st, 0)["digest"], resource(st, 1)["digest"] = a[:62], a[62:]+b
		}, verify.CodeMalformed, "31 bytes", false},
		{"no algorithm", func(st map[string]any) { delete(resource(st, 0), "algorithm") }, verify.CodeMalformed, "missing", false},
		{"another algorithm than hash_type (rule 31)", func(st map[string]any) { resource(st, 0)["algorithm"] = "sha512" }, verify.CodeMalformed, `"sha512"`, false},
		{"an algorithm in capitals", func(st map[string]any) { resource(st, 0)["algorithm"] = "SHA256" }, verify.CodeMalformed, `"SHA256"`, false},
		{"the algorithm of shards with whole files", func(st map[string]any) { resource(st, 0)["algorithm"] = "sha256-sharded-8" }, verify.CodeMalformed, "sharded", false},
		{"a resource that is a string", func(st map[string]any) { resourcesOf(st)[0] = "config.json" }, verify.CodeMalformed, "not an object", fixed},

		// Serialization: OMS §5.2.2, §7
		{"an unknown hash", func(st map[string]any) { serialization(st)["hash_type"] = "md5" }, verify.CodeMalformed, `"md5"`, false},
		{"sha512 as hash", func(st map[string]any) {
			serialization(st)["hash_type"] = "sha512"
			for i := range 2 {
				resource(st, i)["algorithm"], resource(st, i)["digest"] = "sha512", strings.Repeat("ab", 64)
			}
		}, verify.CodeMalformed, `"sha512"`, false},
		{"a hash in capitals", func(st map[string]any) { serialization(st)["hash_type"] = "SHA256" }, verify.CodeMalformed, `"SHA256"`, false},
		{"another hash than the resources", func(st map[string]any) { serialization(st)["hash_type"] = "blake3" }, verify.CodeMalformed, "algorithm", false},
		{"a hash with digests of another length", func(st map[string]any) {
			serialization(st)["hash_type"] = "blake2b"
			for i := range 2 {
				resource(st, i)["algorithm"] = "blake2b"
			}
		}, verify.CodeMalformed, "32 bytes", false},
		{"no hash", func(st map[string]any) { delete(serialization(st), "hash_type") }, verify.CodeMalformed, "hash_type", false},
		{"an unknown method", func(st map[string]any) { serialization(st)["method"] = "merkle" }, verify.CodeMalformed, `"merkle"`, false},
		{"no method", func(st map[string]any) { delete(serialization(st), "method") }, verify.CodeMalformed, "method", false},
		{"files with shard_size", func(st map[string]any) { serialization(st)["shard_size"] = 1000000000 }, verify.CodeMalformed, "shard_size", false},
		{"shards without shard_size", func(st map[string]any) { serialization(st)["method"] = "shards" }, verify.CodeMalformed, "shard_size", false},
		{"shards of nothing", func(st map[string]any) { serialization(st)["method"], serialization(st)["shard_size"] = "shards", 0 }, verify.CodeMalformed, "shard_size", false},
		{"whole files under shards", func(st map[string]any) { serialization(st)["method"], serialization(st)["shard_size"] = "shards", 8 }, verify.CodeMalformed, "FILE:START:END", false},
		{"no allow_symlinks", func(st map[string]any) { delete(serialization(st), "allow_symlinks") }, verify.CodeMalformed, "allow_symlinks", false},
		{"allow_symlinks that is a string", func(st map[string]any) { serialization(st)["allow_symlinks"] = "false" }, verify.CodeMalformed, "allow_symlinks", false},
		{"ignore_paths that are a string", func(st map[string]any) { serialization(st)["ignore_paths"] = "." }, verify.CodeMalformed, "not an array", false},
		{"ignore_paths that are null", func(st map[string]any) { serialization(st)["ignore_paths"] = nil }, verify.CodeMalformed, "not an array", false},
		{"ignore_paths that are numbers", func(st map[string]any) { serialization(st)["ignore_paths"] = []any{1} }, verify.CodeMalformed, "not a string", false},
		{"a member of the serialization that nobody knows", func(st map[string]any) { serialization(st)["x"] = 1 }, verify.CodeMalformed, `"x"`, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			payload := edit(t, bound(t), func(st map[string]any) {
				tt.change(st)
				if !tt.root {
					reroot(t, st)
				}
			})
			signed := k.sign(t, payload)
			for where, s := range map[string]verify.Subject{
				"an artifact":                   tinyArtifact(),
				"a folder":                      folder(tiny),
				"a folder against its artifact": {Artifact: tinyArtifact().Artifact, Local: tiny.local()},
			} {
				// Whatever a caller tolerates, he does not tolerate this.
				p := trusts(k)
				p.IgnoreUnsignedFiles, p.Subset = true, true
				for _, p := range []verify.Policy{trusts(k), p} {
					r, err := verify.Decide(t.Context(), p, s, bundles(signed))
					wantNo(t, r, err, verify.ErrRefused, tt.code)
					if !strings.Contains(err.Error(), tt.says) {
						t.Errorf("%s: %v does not say %q", where, err, tt.says)
					}
				}
			}
		})
	}

	// The one that all of these differ from, and what may differ.
	for name, change := range map[string]func(st map[string]any){
		"as it is":                     func(map[string]any) {},
		"any name of the subject":      func(st map[string]any) { subject(st)["name"] = "../ other:" },
		"no ignore_paths":              func(st map[string]any) { delete(serialization(st), "ignore_paths") },
		"another order":                func(st map[string]any) { slices.Reverse(resourcesOf(st)) },
		"a second digest of the model": func(st map[string]any) { subject(st)["digest"].(map[string]any)["sha512"] = strings.Repeat("ab", 64) },
		"unknown members of resources": func(st map[string]any) { resource(st, 0)["x"] = map[string]any{"y": 1} },
		"a later minor version":        func(st map[string]any) { st["predicateType"] = "https://model_signing/signature/v1.31" },
	} {
		payload := edit(t, bound(t), func(st map[string]any) {
			digest := subject(st)["digest"].(map[string]any)
			change(st)
			more := digest["sha512"]
			reroot(t, st)
			if more != nil {
				subject(st)["digest"].(map[string]any)["sha512"] = more
			}
		})
		for _, s := range []verify.Subject{tinyArtifact(), folder(tiny)} {
			if r, err := verify.Decide(t.Context(), trusts(k), s, bundles(k.sign(t, payload))); err != nil {
				t.Errorf("%s: %v, %v", name, r, err)
			}
		}
	}
}

// JSON that has two readings, or that not all readers read, signed as it is.
func TestEveryRefusalOfAPayload(t *testing.T) {
	k := newKey(t)
	good := string(bound(t))
	replaced := func(old, new string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("no %s in %s", old, good)
		}
		return strings.Replace(good, old, new, 1)
	}
	for name, payload := range map[string]string{
		"no JSON":                              "yes",
		"blanks":                               "  ",
		"a list":                               "[" + good + "]",
		"cut by its last byte":                 good[:len(good)-1],
		"something behind it":                  good + "{}",
		"a second statement behind it":         good + good,
		"NUL behind it":                        good + "\x00",
		"a byte order mark":                    "\ufeff" + good,
		"UTF-16":                               "\xff\xfe{\x00}\x00",
		"a comment":                            replaced("{", "{/**/"),
		"a comma too many":                     good[:len(good)-1] + ",}",
		"a member twice":                       replaced(`"predicate":{`, `"predicate":{},"predicate":{`),
		"a member twice, once escaped":         replaced(`"predicate":{`, `"predic\u0061te":{},"predicate":{`),
		"a member of the predicate twice":      replaced(`"resources":[`, `"resources":[],"resources":[`),
		"a member of a resource twice":         replaced(`"name":"config.json"`, `"name":"evil","name":"config.json"`),
		"a digest twice":                       replaced(`"sha256":`, `"sha256":"00","sha256":`),
		"invalid UTF-8":                        replaced(`"name":"config.json"`, "\"name\":\"config.json\xff\""),
		"half a surrogate pair":                replaced(`"name":"config.json"`, `"name":"config.json\ud800"`),
		"a control character":                  replaced(`"name":"config.json"`, "\"name\":\"config.json\n\""),
		"a number that is no JSON":             replaced(`"size":13`, `"size":013`),
		"objects deeper than anybody needs":    replaced(`"name":"config.json"`, `"x":`+strings.Repeat(`[`, 100)+strings.Repeat(`]`, 100)+`,"name":"config.json"`),
		"a member in upper case":               replaced(`"predicateType"`, `"PredicateType"`),
		"a digest's algorithm in another case": replaced(`{"sha256":`, `{"SHA256":`),
	} {
		t.Run(name, func(t *testing.T) {
			for _, s := range []verify.Subject{tinyArtifact(), folder(tiny)} {
				r, err := verify.Decide(t.Context(), trusts(k), s, bundles(k.envelope(t, bundle.PayloadType, []byte(payload))))
				wantNo(t, r, err, verify.ErrRefused, verify.CodeMalformed)
			}
		})
	}
	// White space is nobody's business.
	var pretty strings.Builder
	enc := json.NewEncoder(&pretty)
	enc.SetIndent(" ", "\t")
	if err := enc.Encode(json.RawMessage(good)); err != nil {
		t.Fatal(err)
	}
	r, err := verify.Decide(t.Context(), trusts(k), tinyArtifact(), bundles(k.envelope(t, bundle.PayloadType, []byte(pretty.String()))))
	wantVerified(t, r, err, verify.StrengthManifest)
}

// The statement is good, its signature is a true one by a key that is trusted,
// and the bundle around them is wrong in one way.
func TestEveryRefusalOfABundle(t *testing.T) {
	o, k := newOffice(t), newKey(t)
	const keyMaterial = `{"publicKey":{"hint":"x"}}`
	payload := bound(t)
	message := dsse(bundle.PayloadType, payload)
	typed := func(payloadType string) []byte {
		return sealed(t, keyMaterial, payloadType, payload, dsse(payloadType, payload), k)
	}
	by := func(material string, keys ...crypto.Signer) []byte {
		return sealed(t, material, bundle.PayloadType, payload, message, keys...)
	}
	good, certified := by(keyMaterial, k), by(o.material(), o.key)
	replaced := func(data []byte, old, new string) []byte {
		if !strings.Contains(string(data), old) {
			t.Fatalf("no %s in %s", old, data)
		}
		return []byte(strings.Replace(string(data), old, new, 1))
	}
	leaf := base64.StdEncoding.EncodeToString(o.leaf.Raw)
	keyAlone := verify.Policy{Verifiers: []bundle.Verifier{keyVerifier(t, o.key.Public())}}
	policy := o.trusted(t, bundle.CertificateOptions{})
	policy.Verifiers = append(policy.Verifiers, verifierOf(k.signer))

	for _, tt := range []struct {
		name   string
		bundle []byte
		policy verify.Policy
		code   string
		says   string
	}{
		{"another payloadType", typed("application/json"), policy, verify.CodeUntrusted, "payload type"},
		{"payloadType in capitals", typed("application/vnd.in-toto+JSON"), policy, verify.CodeUntrusted, "payload type"},
		{"payloadType with a parameter", typed(bundle.PayloadType + "; charset=utf-8"), policy, verify.CodeUntrusted, "payload type"},
		{"no payloadType", typed(""), policy, verify.CodeUntrusted, "payload type"},
		{"two signatures of the key", by(keyMaterial, k, k), policy, verify.CodeMalformed, "2 signatures"},
		{"a second signature of a stranger", by(keyMaterial, k, newKey(t)), policy, verify.CodeMalformed, "2 signatures"},
		{"no signature", by(keyMaterial), policy, verify.CodeMalformed, "0 signatures"},
		{"no payload", sealed(t, keyMaterial, bundle.PayloadType, nil, dsse(bundle.PayloadType, nil), k), policy, verify.CodeMalformed, ""},
		{"another mediaType", replaced(good, bundle.MediaType, "application/vnd.dev.sigstore.bundle.v9.9+json"), policy, verify.CodeMalformed, "mediaType"},
		{"no mediaType", replaced(good, `"mediaType":"`+bundle.MediaType+`",`, ""), policy, verify.CodeMalformed, "mediaType"},
		{"a member that nobody knows", replaced(good, `{"mediaType"`, `{"x":1,"mediaType"`), policy, verify.CodeMalformed, "unknown object member"},
		{"a member twice", replaced(good, `{"mediaType"`, `{"mediaType":"x","mediaType"`), policy, verify.CodeMalformed, "duplicate"},
		{"something behind it", append(slices.Clone(good), "{}"...), policy, verify.CodeMalformed, ""},
		{"no material", replaced(good, keyMaterial, `{}`), policy, verify.CodeMalformed, "verificationMaterial has 0"},
		{"material of two methods", replaced(good, keyMaterial, `{"publicKey":{"hint":"x"},"certificate":{"rawBytes":"`+leaf+`"}}`), policy, verify.CodeMalformed, ""},
		{"an empty chain", replaced(good, keyMaterial, `{"x509CertificateChain":{"certificates":[]}}`), policy, verify.CodeMalformed, ""},

		// Material of another method than the policy is for (rule 30).
		{"a certificate's bundle for its key", certified, keyAlone, verify.CodeUntrusted, "method key only"},
		{"a certificate alone for its key", by(`{"certificate":{"rawBytes":"`+leaf+`"}}`, o.key), keyAlone, verify.CodeUntrusted, "method key only"},
		{"the certificate's key as a key", by(keyMaterial, o.key), o.trusted(t, bundle.CertificateOptions{}), verify.CodeUntrusted, "method certificate only"},
		{"the key's bundle for its certificate's root, with the key inside", by(`{"publicKey":{"rawBytes":"`+base64.StdEncoding.EncodeToString(testdata(t, "certificate/leaf.pub.pem"))+`"}}`, o.key), o.trusted(t, bundle.CertificateOptions{}), verify.CodeUntrusted, "method certificate only"},
		{"a log entry beside the certificate", by(`{"certificate":{"rawBytes":"`+leaf+`"},"tlogEntries":[{}]}`, o.key), o.trusted(t, bundle.CertificateOptions{}), verify.CodeUntrusted, "method certificate only"},
		{"a certificate's material around the key's signature", by(o.material(), k), policy, verify.CodeUntrusted, "did not make this signature"},
		{"a stranger's key inside the bundle", by(`{"publicKey":{"rawBytes":"`+base64.StdEncoding.EncodeToString(publicPEM(t, o.key))+`"}}`, o.key), trusts(k), verify.CodeUntrusted, "did not make this signature"},
		{"a stranger with the hint of the key", by(`{"publicKey":{"hint":"`+fingerprint(t, k)+`"}}`, o.key), trusts(k), verify.CodeUntrusted, "did not make this signature"},

		// The chain does not lead to an anchor of the policy.
		{"no intermediate", by(chain(o.leaf), o.key), policy, verify.CodeUntrusted, "does not lead to an accepted root"},
		{"an intermediate before the leaf", by(chain(o.intermediate, o.leaf), o.key), policy, verify.CodeUntrusted, ""},
		{"another identity", certified, o.trusted(t, bundle.CertificateOptions{Identity: "other@example.com"}), verify.CodeUntrusted, `"release@example.com"`},
		{"an expired certificate", certified, o.trusted(t, bundle.CertificateOptions{Now: func() time.Time { return o.leaf.NotAfter.Add(time.Second) }}), verify.CodeUntrusted, "expired"},
		{"a certificate of the future", certified, o.trusted(t, bundle.CertificateOptions{Now: func() time.Time { return o.leaf.NotBefore.Add(-time.Second) }}), verify.CodeUntrusted, "not valid before"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.policy.Binding = verify.StrengthLayers
			for _, s := range []verify.Subject{tinyArtifact(), folder(tiny)} {
				r, err := verify.Decide(t.Context(), tt.policy, s, bundles(tt.bundle))
				wantNo(t, r, err, verify.ErrRefused, tt.code)
				if !strings.Contains(err.Error(), tt.says) {
					t.Errorf("%v does not say %q", err, tt.says)
				}
			}
		})
	}
	for name, data := range map[string][]byte{"by the key": good, "by the certificate": certified} {
		for _, s := range []verify.Subject{tinyArtifact(), folder(tiny)} {
			if _, err := verify.Decide(t.Context(), policy, s, bundles(data)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

// A valid root issued each of these, and its holder signed a good statement.
// What makes a certificate good for signing is in a table of the bundle
// package; these come all the way to a verdict.
func TestEveryRefusalOfACertificate(t *testing.T) { // rule 10
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	issue := func(template, issuer *x509.Certificate) *x509.Certificate {
		t.Helper()
		template.SerialNumber = big.NewInt(1)
		if template.NotBefore.IsZero() {
			template.NotBefore = midYear.AddDate(0, -6, 0)
		}
		if template.NotAfter.IsZero() {
			template.NotAfter = midYear.AddDate(0, 6, 0)
		}
		template.BasicConstraintsValid = true
		// One key serves all: what tells certificates apart is what they say.
		der, err := x509.CreateCertificate(rand.Reader, template, issuer, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}
	ca := &x509.Certificate{Subject: pkix.Name{CommonName: "root"}, IsCA: true, KeyUsage: x509.KeyUsageCertSign}
	root := issue(ca, ca)
	leaf := func(edit func(c *x509.Certificate)) *x509.Certificate {
		template := &x509.Certificate{
			Subject: pkix.Name{CommonName: "release"}, EmailAddresses: []string{"release@example.com"},
			KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
		}
		edit(template)
		return issue(template, root)
	}
	verifier, err := bundle.NewCertificateVerifier([]*x509.Certificate{root}, bundle.CertificateOptions{Identity: "release@example.com", Now: func() time.Time { return midYear }})
	if err != nil {
		t.Fatal(err)
	}
	policy := verify.Policy{Verifiers: []bundle.Verifier{verifier}, Binding: verify.StrengthLayers}
	payload := bound(t)
	signed := func(cert *x509.Certificate) []byte {
		return sealed(t, chain(cert), bundle.PayloadType, payload, dsse(bundle.PayloadType, payload), key)
	}
	for _, tt := range []struct {
		name string
		edit func(c *x509.Certificate)
		says string // "": accepted
	}{
		{"as it should be", func(*x509.Certificate) {}, ""},
		{"expired, under a root that is valid", func(c *x509.Certificate) { c.NotAfter = midYear.Add(-time.Second) }, "expired"},
		{"expired before the root was there", func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = midYear.AddDate(-6, 0, 0), midYear.AddDate(-5, 0, 0)
		}, "expired"},
		{"not valid yet", func(c *x509.Certificate) { c.NotBefore = midYear.Add(time.Second) }, "not valid before"},
		{"for servers", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }, "without codeSigning"},
		{"for clients", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }, "without codeSigning"},
		{"for timestamps", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageTimeStamping} }, "without codeSigning"},
		{"for anything", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} }, "without codeSigning"},
		{"for certificates only", func(c *x509.Certificate) { c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign }, "without digitalSignature"},
		{"for encryption only", func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment }, "without digitalSignature"},
		{"for nothing in particular", func(c *x509.Certificate) { c.KeyUsage, c.ExtKeyUsage = 0, nil }, "neither key usage"},
		{"of somebody else", func(c *x509.Certificate) { c.EmailAddresses = []string{"other@example.com"} }, `"other@example.com"`},
		{"of a longer address", func(c *x509.Certificate) { c.EmailAddresses = []string{"release@example.com.evil.example"} }, "evil.example"},
		{"of nobody but by its common name", func(c *x509.Certificate) { c.EmailAddresses, c.Subject.CommonName = nil, "release@example.com" }, "no URI, mail address or DNS name"},
		{"of a host with that name", func(c *x509.Certificate) { c.EmailAddresses, c.DNSNames = nil, []string{"release@example.com"} }, "dns:"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for strength, s := range map[verify.Strength]verify.Subject{verify.StrengthManifest: tinyArtifact(), verify.StrengthFiles: folder(tiny)} {
				r, err := verify.Decide(t.Context(), policy, s, bundles(signed(leaf(tt.edit))))
				if tt.says == "" {
					wantVerified(t, r, err, strength)
					continue
				}
				wantNo(t, r, err, verify.ErrRefused, verify.CodeUntrusted)
				if !strings.Contains(err.Error(), tt.says) {
					t.Errorf("%v does not say %q", err, tt.says)
				}
			}
		})
	}
}

func keyVerifier(t testing.TB, key crypto.PublicKey) bundle.Verifier {
	t.Helper()
	v, err := bundle.NewKeyVerifier(key)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func publicPEM(t testing.TB, key crypto.Signer) []byte {
	t.Helper()
	data, err := bundle.MarshalPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func fingerprint(t testing.TB, key crypto.Signer) string {
	t.Helper()
	f, err := bundle.Fingerprint(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return f
}
