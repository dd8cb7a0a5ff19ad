package oci_test

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/modelsig/modelsig/oci"
)

// auths makes an auth file; entries are key, user, key, user…; the password is
// "pw-" and the user.
func auths(entries ...string) string {
	var list []string
	for i := 0; i < len(entries); i += 2 {
		auth := base64.StdEncoding.EncodeToString([]byte(entries[i+1] + ":pw-" + entries[i+1]))
		list = append(list, fmt.Sprintf("%q:{\"auth\":%q}", entries[i], auth))
	}
	return `{"auths":{` + strings.Join(list, ",") + `}}`
}

func writeConfig(t *testing.T, path, content string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// cleanEnv gives an empty home and none of the variables.
func cleanEnv(t *testing.T) (home string) {
	t.Helper()
	home = t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("USERPROFILE", home)
	for _, name := range []string{"REGISTRY_AUTH_FILE", "DOCKER_CONFIG", "XDG_CONFIG_HOME"} {
		t.Setenv(name, "")
	}
	t.Setenv("XDG_RUNTIME_DIR", filepath.Join(home, "run"))
	return home
}

func TestDockerCredentialsOneFile(t *testing.T) {
	for _, test := range []struct {
		name, config, registry, repository, user string
	}{
		{"by host", auths("ghcr.io", "alice"), "ghcr.io", "a/m", "alice"},
		{"by host and port", auths("r.example:5000", "alice"), "r.example:5000", "m", "alice"},
		{"another port", auths("r.example:5000", "alice"), "r.example", "m", ""},
		{"another host", auths("ghcr.io", "alice"), "quay.io", "a/m", ""},
		{"no host is a suffix of another", auths("io", "mallory", "evil.ghcr.io", "mallory"), "ghcr.io", "a/m", ""},
		{"a URL", auths("https://r.example/", "alice"), "r.example", "m", "alice"},
		{"a URL with an API path", auths("https://r.example/v2/", "alice"), "r.example", "m", "alice"},
		{"a plain name before a URL", auths("https://r.example", "bob", "r.example", "alice"), "r.example", "m", "alice"},
		{"Docker Hub as docker login writes it", auths("https://index.docker.io/v1/", "alice"), "docker.io", "library/m", "alice"},
		{"Docker Hub as podman login writes it", auths("docker.io", "alice"), "docker.io", "library/m", "alice"},
		{"Docker Hub by its wire name", auths("registry-1.docker.io", "alice"), "docker.io", "library/m", "alice"},
		{"a namespace", auths("quay.io/org", "alice"), "quay.io", "org/m", "alice"},
		{"a namespace is not its neighbour", auths("quay.io/org", "alice"), "quay.io", "org2/m", ""},
		{"a namespace is not its host", auths("quay.io/org", "alice"), "quay.io", "other/m", ""},
		{"the most specific one", auths("quay.io", "a", "quay.io/org", "b", "quay.io/org/m", "c"), "quay.io", "org/m", "c"},
		{"the next specific one", auths("quay.io", "a", "quay.io/org", "b", "quay.io/org/m", "c"), "quay.io", "org/n", "b"},
		{"the host's at last", auths("quay.io", "a", "quay.io/org", "b"), "quay.io", "x/n", "a"},
		{"an empty file", "", "ghcr.io", "m", ""},
		{"an empty object", "{}", "ghcr.io", "m", ""},
		{"other settings", `{"HttpHeaders":{"a":"b"},"auths":{"ghcr.io":{"username":"alice","password":"pw-alice"}}}`, "ghcr.io", "m", "alice"},
	} {
		t.Run(test.name, func(t *testing.T) {
			cleanEnv(t)
			file := writeConfig(t, filepath.Join(t.TempDir(), "auth.json"), test.config)
			credentials, err := oci.DockerCredentials(file)
			if err != nil {
				t.Fatal(err)
			}
			cred, err := credentials(t.Context(), test.registry, test.repository)
			if err != nil {
				t.Fatal(err)
			}
			want := ""
			if test.user != "" {
				want = "pw-" + test.user
				if !strings.Contains(cred.Source, "auth.json") {
					t.Errorf("source %q", cred.Source)
				}
			}
			if cred.Username != test.user || cred.Password != want {
				t.Errorf("got user %q, want %q", cred.Username, test.user)
			}
		})
	}
}

func TestDockerCredentialsTokens(t *testing.T) {
	cleanEnv(t)
	file := writeConfig(t, filepath.Join(t.TempDir(), "auth.json"), `{"auths":{"a.example":{"identitytoken":"it"},"b.example":{"registrytoken":"rt"}}}`)
	credentials, err := oci.DockerCredentials(file)
	if err != nil {
		t.Fatal(err)
	}
	if cred, err := credentials(t.Context(), "a.example", "m"); err != nil || cred.RefreshToken != "it" {
		t.Errorf("%v", err)
	}
	if cred, err := credentials(t.Context(), "b.example", "m"); err != nil || cred.AccessToken != "rt" {
		t.Errorf("%v", err)
	}
}

func TestDockerCredentialsOrder(t *testing.T) {
	home := cleanEnv(t)
	files := []string{
		writeConfig(t, filepath.Join(home, "auth-file.json"), auths("r.example", "env")),
		writeConfig(t, filepath.Join(home, "docker", "config.json"), auths("r.example", "docker")),
		writeConfig(t, filepath.Join(home, "run", "containers", "auth.json"), auths("r.example", "runtime")),
		writeConfig(t, filepath.Join(home, ".config", "containers", "auth.json"), auths("r.example", "home")),
	}
	t.Setenv("REGISTRY_AUTH_FILE", files[0])
	t.Setenv("DOCKER_CONFIG", filepath.Join(home, "docker"))
	for i, want := range []string{"env", "docker", "runtime", "home", ""} {
		credentials, err := oci.DockerCredentials()
		if err != nil {
			t.Fatal(err)
		}
		cred, err := credentials(t.Context(), "r.example", "m")
		if err != nil || cred.Username != want {
			t.Errorf("user %q, %v; want %q", cred.Username, err, want)
		}
		if i < len(files) { // the next in line
			writeConfig(t, files[i], auths("other.example", "x"))
		}
	}
	t.Run("named files and no others", func(t *testing.T) {
		writeConfig(t, files[3], auths("r.example", "home"))
		credentials, err := oci.DockerCredentials(files[0], files[1])
		if err != nil {
			t.Fatal(err)
		}
		if cred, err := credentials(t.Context(), "r.example", "m"); err != nil || cred.Username != "" {
			t.Errorf("user %q, %v", cred.Username, err)
		}
	})
	t.Run("the usual Docker file", func(t *testing.T) {
		cleanEnv(t)
		home, _ := os.UserHomeDir()
		writeConfig(t, filepath.Join(home, ".docker", "config.json"), auths("r.example", "usual"))
		credentials, err := oci.DockerCredentials()
		if err != nil {
			t.Fatal(err)
		}
		if cred, err := credentials(t.Context(), "r.example", "m"); err != nil || cred.Username != "usual" {
			t.Errorf("user %q, %v", cred.Username, err)
		}
	})
}

func TestDockerCredentialsBroken(t *testing.T) {
	home := cleanEnv(t)
	missing := filepath.Join(home, "missing.json")
	if _, err := oci.DockerCredentials(missing); err == nil {
		t.Error("a file that was named is missing, and no error")
	}
	t.Setenv("REGISTRY_AUTH_FILE", missing)
	if _, err := oci.DockerCredentials(); err == nil {
		t.Error("a file that the environment names is missing, and no error")
	}
	t.Setenv("REGISTRY_AUTH_FILE", "")
	const secret = "hunter2"
	for _, test := range []struct{ name, config string }{
		{"not JSON", `{"auths":{"r.example":{"auth":"` + secret},
		{"another shape", `{"auths":{"r.example":{"auth":{"x":"` + secret + `"}}}}`},
		{"not base64", `{"auths":{"r.example":{"auth":"` + secret + `!"}}}`},
		{"no colon", `{"auths":{"r.example":{"auth":"` + base64.StdEncoding.EncodeToString([]byte(secret)) + `"}}}`},
		{"a helper that is missing", `{"credsStore":"is-missing-for-sure"}`},
		{"a helper with a path", `{"credHelpers":{"r.example":"../../x"}}`},
		{"too large", `{"auths":{}}` + strings.Repeat(" ", 2<<20)},
	} {
		t.Run(test.name, func(t *testing.T) {
			file := writeConfig(t, filepath.Join(home, ".docker", "config.json"), test.config)
			writeConfig(t, filepath.Join(home, ".config", "containers", "auth.json"), auths("r.example", "later"))
			credentials, err := oci.DockerCredentials()
			if err != nil {
				t.Fatalf("before the file is needed: %v", err)
			}
			cred, err := credentials(t.Context(), "r.example", "m")
			if err == nil || !strings.Contains(err.Error(), filepath.Base(file)) {
				t.Fatalf("error %v", err)
			}
			if strings.Contains(err.Error(), secret) || cred != (oci.Credential{}) {
				t.Errorf("the error tells the secret, or a credential came: %v", err)
			}
		})
	}
}

func TestDockerCredentialsHelpers(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("the helper is a shell script")
	}
	home := cleanEnv(t)
	bin := filepath.Join(home, "bin")
	script := `#!/bin/sh
read server
case "$server" in
r.example) echo '{"ServerURL":"r.example","Username":"helped","Secret":"s"}' ;;
https://index.docker.io/v1/) echo '{"ServerURL":"x","Username":"<token>","Secret":"t"}' ;;
fails.example) echo 'keychain is locked'; exit 1 ;;
*) echo 'credentials not found in native keychain'; exit 1 ;;
esac
`
	if err := os.Chmod(writeConfig(t, filepath.Join(bin, "docker-credential-fake"), script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+string(os.PathListSeparator)+os.Getenv("PATH"))
	get := func(t *testing.T, config, registry string) (oci.Credential, error) {
		file := writeConfig(t, filepath.Join(home, "config.json"), config)
		credentials, err := oci.DockerCredentials(file)
		if err != nil {
			t.Fatal(err)
		}
		return credentials(t.Context(), registry, "org/m")
	}
	for _, config := range []string{`{"credsStore":"fake"}`, `{"credHelpers":{"r.example":"fake"},"credsStore":"is-missing"}`} {
		cred, err := get(t, config, "r.example")
		if err != nil || cred.Username != "helped" || !strings.Contains(cred.Source, "docker-credential-fake") {
			t.Errorf("%s: %v, %v", config, cred, err)
		}
	}
	if cred, err := get(t, `{"credHelpers":{"docker.io":"fake"}}`, "docker.io"); err != nil || cred.RefreshToken != "t" {
		t.Errorf("Docker Hub: %v, %v", cred, err)
	}
	if cred, err := get(t, `{"credsStore":"fake",`+auths("none.example", "alice")[1:], "none.example"); err != nil || cred.Username != "alice" {
		t.Errorf("auths beside a store that has none: %v, %v", cred, err)
	}
	if cred, err := get(t, `{"credsStore":"fake",`+auths("r.example/org", "alice")[1:], "r.example"); err != nil || cred.Username != "alice" {
		t.Errorf("a namespace beside a store: %v, %v", cred, err)
	}
	_, err := get(t, `{"credsStore":"fake"}`, "fails.example")
	if err == nil || !strings.Contains(err.Error(), "keychain is locked") || !strings.Contains(err.Error(), "docker-credential-fake") {
		t.Errorf("error %v", err)
	}
}

func TestStaticCredentials(t *testing.T) {
	credentials := oci.StaticCredentials("INDEX.docker.io", "u", "p")
	if cred, err := credentials(t.Context(), "docker.io", "library/m"); err != nil || cred.Username != "u" {
		t.Errorf("%v, %v", cred, err)
	}
	if cred, err := credentials(t.Context(), "ghcr.io", "library/m"); err != nil || cred != (oci.Credential{}) {
		t.Errorf("%v, %v", cred, err)
	}
}

// Rule 17: no secret in a log.
func TestCredentialPrintsNoSecret(t *testing.T) {
	cred := oci.Credential{Username: "user7", Password: "secret7", RefreshToken: "refresh7", AccessToken: "access7", Source: "a file"}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "credential", cred, "pointer", &cred)
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "credential", cred)
	all := log.String() + fmt.Sprintf("%v %+v %#v %s %q %v", cred, cred, cred, cred, cred, &cred)
	for _, secret := range []string{cred.Username, cred.Password, cred.RefreshToken, cred.AccessToken} {
		if strings.Contains(all, secret) {
			t.Errorf("%q is in %s", secret, all)
		}
	}
}
