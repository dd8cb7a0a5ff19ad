package interop

import (
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Sigstore's timestamp authority says when signatures were made: of a folder,
// and of both bundles of an artifact, with a certificate and with a key.
func TestARealTimestampAuthority(t *testing.T) {
	authority := startAuthority(t)
	ca, err := filepath.Abs("../testdata/certificate")
	if err != nil {
		t.Fatal(err)
	}
	dir := newModel(t, "tsa")
	signature := filepath.Join(t.TempDir(), "model.sig")
	sign := []string{"sign", "certificate", "--private-key", filepath.Join(ca, "leaf.key.pem"), "--signing-certificate", filepath.Join(ca, "leaf.pem"),
		"--certificate-chain", filepath.Join(ca, "intermediate.pem"), "--tsa-url", authority.url}
	verify := []string{"verify", "certificate", "--certificate-chain", filepath.Join(ca, "root.pem"), "--identity", "release@example.com"}

	timed := func(answer string, signatures int) {
		t.Helper()
		if n := strings.Count(answer, `"timeSource": "timestamp"`); n != signatures {
			t.Errorf("%d signatures with a proved time, want %d:\n%s", n, signatures, answer)
		}
	}
	run(t, 0, append(sign, dir, "--signature", signature)...)
	local := append(verify, dir, "--signature", signature, "--format", "json")
	timed(run(t, 0, append(local, "--tsa-certificate-chain", authority.chain)...).stdout, 1)
	timed(run(t, 0, append(local, "--tsa-certificate-chain", filepath.Join(ca, "root.pem"))...).stdout, 0)
	timed(run(t, 0, local...).stdout, 0)

	r := startDistribution(t, "")
	ref, _ := push(t, r, "acme/timestamped", "tsa")
	run(t, 0, append(sign, ref)...)
	timed(run(t, 0, append(verify, ref, "--format", "json", "--tsa-certificate-chain", authority.chain)...).stdout, 2)

	key := newKey(t, curves[0].curve)
	run(t, 0, "sign", "key", dir, "--private-key", key.private, "--tsa-url", authority.url, "--signature", signature)
	byKey := []string{"verify", "key", dir, "--public-key", key.public, "--signature", signature, "--format", "json"}
	timed(run(t, 0, byKey...).stdout, 0)
	timed(run(t, 0, append(byKey, "--tsa-certificate-chain", authority.chain)...).stdout, 1)
}

// cosign accepts the artifact signature that a certificate made, under a trusted
// root made of the same roots, now and at the authority's time; and not under
// another's.
func TestWhatACertificateSignsCosignVerifies(t *testing.T) {
	authority := startAuthority(t)
	ca, err := filepath.Abs("../testdata/certificate")
	if err != nil {
		t.Fatal(err)
	}
	r := startDistribution(t, "")
	read := func(name string) []byte {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	chain := filepath.Join(t.TempDir(), "chain.pem")
	writeFile(t, chain, append(read(filepath.Join(ca, "intermediate.pem")), read(filepath.Join(ca, "root.pem"))...))
	root := filepath.Join(t.TempDir(), "root.json")
	peer(t, cosign, "trusted-root", "create", "--fulcio", "url=https://ca.example.com,certificate-chain="+chain,
		"--tsa", "url="+authority.url+",certificate-chain="+authority.chain, "--out", root)

	for name, stamp := range map[string][]string{
		"now":                     nil,
		"at the authority's time": {"--tsa-url", authority.url},
	} {
		t.Run(name, func(t *testing.T) {
			ref, _ := push(t, r, "acme/certificate", name)
			run(t, 0, append([]string{"sign", "certificate", ref, "--private-key", filepath.Join(ca, "leaf.key.pem"), "--signing-certificate", filepath.Join(ca, "leaf.pem"),
				"--certificate-chain", filepath.Join(ca, "intermediate.pem")}, stamp...)...)
			verify := []string{cosign, "verify", "--trusted-root", root, "--allow-certificate-chain", "--certificate-oidc-issuer-regexp", ".*",
				"--insecure-ignore-tlog", "--insecure-ignore-sct", "--allow-http-registry", ref}
			if stamp != nil {
				verify = append(verify, "--use-signed-timestamps")
			}
			command{args: append(verify, "--certificate-identity", "release@example.com")}.want(t, 0)
			if r := (command{args: append(verify, "--certificate-identity", "other@example.com")}).try(t); r.code == 0 {
				t.Error("cosign accepts another identity")
			}
		})
	}
}

// An authorityServer is a timestamp authority in its own process.
type authorityServer struct {
	url   string
	chain string // a file
}

// startAuthority starts one. It takes port 2112 too, for its metrics, whatever
// its flags say: there is one at a time.
func startAuthority(t testing.TB) authorityServer {
	t.Helper()
	const path = "/api/v1/timestamp"
	host := start(t, path+"/certchain", func(host string) *exec.Cmd {
		name, port, err := net.SplitHostPort(host)
		if err != nil {
			t.Fatal(err)
		}
		return exec.Command(tsa, "serve", "--host", name, "--port", port, "--timestamp-signer", "memory", "--disable-ntp-monitoring")
	})
	res, err := http.Get("http://" + host + path + "/certchain")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	chain, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("certificate chain: %s, %v", res.Status, err)
	}
	a := authorityServer{url: "http://" + host + path, chain: filepath.Join(t.TempDir(), "tsa.pem")}
	writeFile(t, a.chain, chain)
	return a
}
