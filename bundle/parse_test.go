package bundle_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/modelsig/modelsig/bundle"
)

// Each row is one edit to a bundle that opens. Rows with one result only are accepted and say the same.
func TestParseIsStrict(t *testing.T) {
	good := signed(t, payload)
	var parts struct {
		Envelope struct {
			Payload    string
			Signatures []struct{ Sig string }
		} `json:"dsseEnvelope"`
		Material struct{ PublicKey struct{ Hint string } } `json:"verificationMaterial"`
	}
	if err := json.Unmarshal([]byte(good), &parts); err != nil {
		t.Fatal(err)
	}
	pay, sig, hint := parts.Envelope.Payload, parts.Envelope.Signatures[0].Sig, parts.Material.PublicKey.Hint
	publicKey, payloadMember, sigObject := `"publicKey":{"hint":"`+hint+`"}`, `"payload":"`+pay+`"`, `{"sig":"`+sig+`"}`
	cert := base64.StdEncoding.EncodeToString(leafDER(t))
	entry := `{"logIndex":"1","logId":{"keyId":"AAAA"},"kindVersion":{"kind":"dsse","version":"0.0.1"},"integratedTime":"1","inclusionPromise":{"signedEntryTimestamp":"AAAA"},` +
		`"inclusionProof":{"logIndex":"1","rootHash":"AAAA","treeSize":"2","hashes":["AAAA"],"checkpoint":{"envelope":"x"}},"canonicalizedBody":"AAAA"}`
	edit := func(old, new string) string {
		if strings.Count(good, old) != 1 {
			t.Fatalf("%d times in the bundle: %s", strings.Count(good, old), old)
		}
		return strings.Replace(good, old, new, 1)
	}
	withEntry := func(old, new string) string {
		return edit(publicKey, publicKey+`,"tlogEntries":[`+strings.Replace(entry, old, new, 1)+`]`)
	}

	old := func(bundleJSON string) string {
		return strings.Replace(bundleJSON, bundle.MediaType, "application/vnd.dev.sigstore.bundle+json;version=0.2", 1)
	}

	accepted := map[string]string{
		"as written":                        good,
		"white space":                       " \t\r\n" + strings.ReplaceAll(good, ",", " ,\n") + "\n",
		"escaped letters":                   edit(`"mediaType":"a`, `"\u006dediaType":"\u0061`),
		"an escaped slash":                  edit(`:"application/vnd.in`, `:"application\/vnd.in`),
		"the other spelling of v0.3":        edit(bundle.MediaType, "application/vnd.dev.sigstore.bundle+json;version=0.3"),
		"keyid is empty":                    edit(sigObject, `{"sig":"`+sig+`","keyid":""}`),
		"keyid is null":                     edit(sigObject, `{"sig":"`+sig+`","keyid":null}`),
		"keyid of whatever key (rule 30)":   edit(sigObject, `{"keyid":"SHA256:x","sig":"`+sig+`"}`),
		"no hint":                           edit(publicKey, `"publicKey":{}`),
		"hint is null":                      edit(publicKey, `"publicKey":{"hint":null}`),
		"hint of another key (rule 30)":     edit(hint, strings.Repeat("0", 64)),
		"key bytes as before 1.1 (rule 30)": edit(publicKey, `"publicKey":{"rawBytes":"LS0t","keyDetails":"PKIX_ECDSA_P384_SHA_384"}`),
		"no log entries":                    edit(publicKey, publicKey+`,"tlogEntries":[]`),
		"log entries are null":              edit(publicKey, publicKey+`,"tlogEntries":null,"timestampVerificationData":null`),
		"an entry nobody asked for":         withEntry("", ""),
		"empty timestamps":                  edit(publicKey, publicKey+`,"timestampVerificationData":{}`),
		"a timestamp nobody asked for":      edit(publicKey, publicKey+`,"timestampVerificationData":{"rfc3161Timestamps":[{"signedTimestamp":"AAAA"}]}`),
		"null for an absent member":         edit(publicKey, publicKey+`,"certificate":null`),
	}
	verifier := keyVerifier(t, privateKey(t, "p256").Public())
	for name, data := range accepted {
		t.Run(name, func(t *testing.T) {
			b, err := bundle.Parse([]byte(data))
			if err != nil {
				t.Fatal(err)
			}
			got, err := b.Open(verifier)
			if err != nil {
				t.Fatal(err)
			}
			if string(got.Payload) != payload || "key "+got.Signer.KeyFingerprint != verifier.String() {
				t.Errorf("%+v", got)
			}
		})
	}

	refused := map[string]string{
		"nothing":                                  "",
		"null":                                     "null",
		"an array":                                 "[" + good + "]",
		"a string":                                 `"bundle"`,
		"NaN":                                      "NaN",
		"an empty object":                          "{}",
		"a byte order mark":                        "\ufeff" + good,
		"a comment":                                good + "// ok",
		"a second bundle":                          good + good,
		"a byte behind it":                         good + "x",
		"a NUL behind it":                          good + "\x00",
		"a comma too many":                         edit(`"}]}}`, `"},]}}`),
		"UTF-16":                                   strings.ReplaceAll(good, `"`, "\"\x00"),
		"invalid UTF-8":                            edit(hint, "\xff"),
		"a lone surrogate":                         edit(hint, `\ud800`),
		"a control character":                      edit(hint, "\x01"),
		"an unknown member":                        edit(`{"mediaType"`, `{"x":1,"mediaType"`),
		"an unknown deep value":                    edit(`{"mediaType"`, `{"x":`+strings.Repeat("[", 100_000)+strings.Repeat("]", 100_000)+`,"mediaType"`),
		"a deep value for a string":                edit(`"`+hint+`"`, strings.Repeat("[", 100_000)+strings.Repeat("]", 100_000)),
		"an unknown member of key":                 edit(publicKey, `"publicKey":{"x":""}`),
		"an unknown member of sig":                 edit(sigObject, `{"sig":"`+sig+`","cert":""}`),
		"an unknown envelope member":               edit(payloadMember, payloadMember+`,"x":1`),
		"two mediaTypes":                           edit(`{"mediaType"`, `{"mediaType":"`+bundle.MediaType+`","mediaType"`),
		"two mediaTypes, one escaped":              edit(`{"mediaType"`, `{"\u006dediaType":"`+bundle.MediaType+`","mediaType"`),
		"two payloads":                             edit(payloadMember, payloadMember+","+payloadMember),
		"two payloads, one null":                   edit(payloadMember, `"payload":null,`+payloadMember),
		"two hints":                                edit(`{"hint"`, `{"hint":"","hint"`),
		"two sigs in a signature":                  edit(`{"sig"`, `{"sig":"AAAA","sig"`),
		"two publicKeys":                           edit(publicKey, publicKey+","+publicKey),
		"two envelopes":                            edit(`"dsseEnvelope"`, `"dsseEnvelope":null,"dsseEnvelope"`),
		"another case":                             edit(`"mediaType"`, `"MediaType"`),
		"another case inside":                      edit(`"payload"`, `"Payload"`),
		"another case as a twin":                   edit(payloadMember, payloadMember+`,"Payload":"AAAA"`),
		"snake case":                               edit("verificationMaterial", "verification_material"),
		"snake case of the envelope":               edit("dsseEnvelope", "dsse_envelope"),
		"snake case of the type":                   edit("payloadType", "payload_type"),
		"snake case of the key":                    edit(`"publicKey"`, `"public_key"`),
		"a message for mediaType":                  edit(`"`+bundle.MediaType+`"`, "{}"),
		"mediaType v0.1":                           edit(bundle.MediaType, "application/vnd.dev.sigstore.bundle+json;version=0.1"),
		"mediaType v0.2":                           edit(bundle.MediaType, "application/vnd.dev.sigstore.bundle+json;version=0.2"),
		"mediaType v0.2 with a key and an entry":   old(withEntry("", "")),
		"mediaType v0.2 with a chain and no entry": old(edit(publicKey, `"x509CertificateChain":{"certificates":[{"rawBytes":"`+cert+`"}]}`)),
		"mediaType v0.2 with an empty chain":       old(edit(publicKey, `"x509CertificateChain":{"certificates":[]},"tlogEntries":[`+entry+`]`)),
		"mediaType v0.2 with a certificate and no entry": old(edit(publicKey, `"certificate":{"rawBytes":"`+cert+`"}`)),
		"mediaType v0.4":               edit(bundle.MediaType, "application/vnd.dev.sigstore.bundle.v0.4+json"),
		"mediaType v0.3.1":             edit(bundle.MediaType, "application/vnd.dev.sigstore.bundle.v0.3.1+json"),
		"mediaType in capitals":        edit(bundle.MediaType, strings.ToUpper(bundle.MediaType)),
		"mediaType with a parameter":   edit(bundle.MediaType, bundle.MediaType+"; charset=utf-8"),
		"mediaType is empty":           edit(bundle.MediaType, ""),
		"mediaType is null":            edit(`"`+bundle.MediaType+`"`, "null"),
		"no mediaType":                 edit(`"mediaType":"`+bundle.MediaType+`",`, ""),
		"no material":                  edit(publicKey, ""),
		"material is null":             edit(`{`+publicKey+`}`, "null"),
		"material is an array":         edit(`{`+publicKey+`}`, "[]"),
		"publicKey is null":            edit(publicKey, `"publicKey":null`),
		"publicKey is a string":        edit(publicKey, `"publicKey":"`+hint+`"`),
		"a key and a certificate":      edit(publicKey, publicKey+`,"certificate":{"rawBytes":"`+cert+`"}`),
		"a certificate and a chain":    edit(publicKey, `"certificate":{"rawBytes":"`+cert+`"},"x509CertificateChain":{"certificates":[{"rawBytes":"`+cert+`"}]}`),
		"an empty certificate":         edit(publicKey, `"certificate":{}`),
		"an empty chain":               edit(publicKey, `"x509CertificateChain":{"certificates":[]}`),
		"a chain of nothing":           edit(publicKey, `"x509CertificateChain":{"certificates":[{}]}`),
		"no content":                   edit(`,"dsseEnvelope":{`+payloadMember+`,"payloadType":"application/vnd.in-toto+json","signatures":[`+sigObject+`]}`, ""),
		"two kinds of content":         edit(`,"dsseEnvelope"`, `,"messageSignature":{"signature":"AAAA"},"dsseEnvelope"`),
		"no payload":                   edit(payloadMember+",", ""),
		"payload is null":              edit(`"`+pay+`"`, "null"),
		"payload is empty":             edit(pay, ""),
		"payload is an object":         edit(`"`+pay+`"`, payload),
		"payload is a number":          edit(`"`+pay+`"`, "1"),
		"payload is not padded":        edit(pay, "AAA"),
		"payload has a line end":       edit(pay, pay[:4]+`\n`+pay[4:]),
		"payload ends a line":          edit(pay, pay+`\r\n`),
		"payload has a space":          edit(pay, pay[:4]+" "+pay[4:]),
		"payload has stray bits":       edit(pay, "AB=="),
		"payload in the URL alphabet":  edit(pay, "-_-_"),
		"no signatures":                edit(sigObject, ""),
		"signatures are null":          edit("["+sigObject+"]", "null"),
		"signatures are an object":     edit("["+sigObject+"]", sigObject),
		"a signature is null":          edit(sigObject, "null"),
		"a signature beside null":      edit(sigObject, sigObject+",null"),
		"a signature is a string":      edit(sigObject, `"`+sig+`"`),
		"the same signature twice":     edit(sigObject, sigObject+","+sigObject),
		"a signature is empty":         edit(sigObject, `{"sig":""}`),
		"a signature is hex":           edit(sig, "zz"),
		"keyid is a number":            edit(sigObject, `{"sig":"`+sig+`","keyid":1}`),
		"65 log entries":               edit(publicKey, publicKey+`,"tlogEntries":[`+strings.Repeat(entry+",", 64)+entry+`]`),
		"a million empty log entries":  edit(publicKey, publicKey+`,"tlogEntries":[`+strings.Repeat("{},", 1_000_000)+`{}]`),
		"a log index as a number":      withEntry(`{"logIndex":"1"`, `{"logIndex":1`),
		"a log index with a zero":      withEntry(`{"logIndex":"1"`, `{"logIndex":"01"`),
		"a log index with a sign":      withEntry(`{"logIndex":"1"`, `{"logIndex":"+1"`),
		"a log index beyond int64":     withEntry(`{"logIndex":"1"`, `{"logIndex":"9223372036854775808"`),
		"a log index as a float":       withEntry(`{"logIndex":"1"`, `{"logIndex":"1e3"`),
		"snake case in a log entry":    withEntry(`"rootHash"`, `"root_hash"`),
		"URL alphabet in a log entry":  withEntry(`"rootHash":"AAAA"`, `"rootHash":"__--"`),
		"an unknown log entry member":  withEntry(`"logId"`, `"x":{},"logId"`),
		"timestamps are an array":      edit(publicKey, publicKey+`,"timestampVerificationData":[]`),
		"an unknown timestamp member":  edit(publicKey, publicKey+`,"timestampVerificationData":{"rfc3161Timestamps":[{"x":"AAAA"}]}`),
		"an empty message signature":   `{"mediaType":"` + bundle.MediaType + `","verificationMaterial":{"publicKey":{}},"messageSignature":{}}`,
		"an unknown message algorithm": `{"mediaType":"` + bundle.MediaType + `","verificationMaterial":{"publicKey":{}},"messageSignature":{"messageDigest":{"algorithm":1},"signature":"AAAA"}}`,
	}
	for name, data := range refused {
		t.Run(name, func(t *testing.T) {
			b, err := bundle.Parse([]byte(data))
			if !errors.Is(err, bundle.ErrMalformed) || b != nil {
				t.Fatalf("parsed: %v", err)
			}
			if len(err.Error()) > 1000 {
				t.Errorf("an error of %d bytes", len(err.Error()))
			}
		})
	}
}

func TestParseReadsNoMoreThanItsLimit(t *testing.T) {
	if _, err := bundle.Parse(make([]byte, bundle.MaxSize+1)); !errors.Is(err, bundle.ErrMalformed) || !strings.Contains(err.Error(), "limit") {
		t.Error(err)
	}
}

// An error is one line of bounded length, whatever is in the bundle (rules 26, 36).
// The payload is the one long string of a bundle, and lies there as it is: any other would be a copy of what nobody authenticated.
func TestLongStrings(t *testing.T) {
	long := strings.Repeat("A", 2<<20)
	for name, data := range map[string]string{
		"a hint":           `{"verificationMaterial":{"publicKey":{"hint":"` + long + `"}}}`,
		"a signature":      `{"dsseEnvelope":{"signatures":[{"sig":"` + long + `"}]}}`,
		"a payload type":   `{"dsseEnvelope":{"payloadType":"` + long + `"}}`,
		"a name":           `{"` + long + `":1}`,
		"a name beside":    `{"dsseEnvelope":{"payload":"AAAA","` + long + `":1}}`,
		"another payload":  `{"verificationMaterial":{"payload":"` + long + `"}}`,
		"an escape inside": `{"dsseEnvelope":{"payload":"` + long + `\u0041AAA"}}`,
	} {
		if _, err := bundle.Parse([]byte(data)); !errors.Is(err, bundle.ErrMalformed) || !strings.Contains(err.Error(), "a string of 2097") {
			t.Errorf("%s: %.200v", name, err)
		}
	}
}
