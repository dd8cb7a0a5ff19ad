package oci

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"
)

// A Credential is what a registry or its token server may be given. It prints
// as its Source: its secrets come out by their fields only.
type Credential struct {
	Username     string
	Password     string
	RefreshToken string // OAuth2 refresh token, "identity token" in Docker's words
	AccessToken  string // bearer token, sent as it is
	Source       string // where it came from, for messages: a file, a helper; "": the caller
}

func (c Credential) empty() bool {
	return c.Username == "" && c.Password == "" && c.RefreshToken == "" && c.AccessToken == ""
}

// String says where the credential came from, never what it is.
func (c Credential) String() string {
	return "credential from " + cmp.Or(c.Source, "the caller")
}

// GoString is String: %#v prints no secret either.
func (c Credential) GoString() string { return c.String() }

// LogValue is String: no log gets a secret.
func (c Credential) LogValue() slog.Value { return slog.StringValue(c.String()) }

// Credentials finds the credential for a repository. registry and repository
// are canonical, as in a [Reference]. It is called when the registry asks, once
// for each scope, perhaps by several goroutines. The zero Credential means that
// there is none, which is no error.
type Credentials func(ctx context.Context, registry, repository string) (Credential, error)

// StaticCredentials gives username and password to one registry and nothing to
// any other. host may be written as in a reference.
func StaticCredentials(host, username, password string) Credentials {
	if canonical, err := canonicalHost(host); err == nil {
		host = canonical
	}
	return func(_ context.Context, registry, _ string) (Credential, error) {
		if registry != host {
			return Credential{}, nil
		}
		return Credential{Username: username, Password: password}, nil
	}
}

const (
	// maxConfig is far above any Docker config file.
	maxConfig = 1 << 20
	// hubServer is what Docker calls Docker Hub in its config and to helpers.
	hubServer = "https://index.docker.io/v1/"
)

// DockerCredentials finds credentials where docker and podman keep them. With
// registryConfig files, these and no others are read; all must exist. Without,
// in this order: $REGISTRY_AUTH_FILE (which must exist if it is set);
// $DOCKER_CONFIG/config.json or ~/.docker/config.json; Podman's
// $XDG_RUNTIME_DIR/containers/auth.json (/run/containers/UID/auth.json without
// the variable), $XDG_CONFIG_HOME/containers/auth.json or
// ~/.config/containers/auth.json.
//
// The environment is read now, the files when a registry asks. The first file
// with an entry wins; a file that comes to be read and is broken is an error,
// and so is a credential helper that is missing or fails. In one file come the
// helper in credHelpers, then credsStore, then auths. Entries of auths may name
// a namespace, as Podman's do (host/org, host/org/model); the most specific one
// wins, over the other kinds too. The aliases of docker.io share an entry.
func DockerCredentials(registryConfig ...string) (Credentials, error) {
	files := registryConfig
	if len(files) == 0 {
		if file := os.Getenv("REGISTRY_AUTH_FILE"); file != "" {
			registryConfig = []string{file}
		}
		files = slices.Concat(registryConfig, defaultAuthFiles())
	}
	for _, file := range registryConfig {
		if _, err := os.Stat(file); err != nil {
			return nil, fmt.Errorf("find registry credentials: %w", err)
		}
	}
	return func(ctx context.Context, registry, repository string) (Credential, error) {
		for _, file := range files {
			cred, err := fileCredential(ctx, file, registry, repository)
			if err != nil {
				return Credential{}, fmt.Errorf("read registry credentials from %q: %w", file, err)
			}
			if !cred.empty() {
				return cred, nil
			}
		}
		return Credential{}, nil
	}, nil
}

func defaultAuthFiles() []string {
	home, err := os.UserHomeDir()
	inHome := func(elem ...string) string {
		if err != nil {
			return "" // no home, no file in it
		}
		return filepath.Join(append([]string{home}, elem...)...)
	}
	docker := os.Getenv("DOCKER_CONFIG")
	if docker == "" {
		docker = inHome(".docker")
	}
	runtimeDir := os.Getenv("XDG_RUNTIME_DIR")
	if runtimeDir == "" && runtime.GOOS == "linux" {
		runtimeDir = filepath.Join("/run/containers", strconv.Itoa(os.Getuid()))
	} else if runtimeDir != "" {
		runtimeDir = filepath.Join(runtimeDir, "containers")
	}
	configDir := os.Getenv("XDG_CONFIG_HOME")
	if configDir == "" {
		configDir = inHome(".config")
	}
	if configDir != "" {
		configDir = filepath.Join(configDir, "containers")
	}
	var files []string
	for _, file := range []struct{ dir, name string }{{docker, "config.json"}, {runtimeDir, "auth.json"}, {configDir, "auth.json"}} {
		if file.dir != "" {
			files = append(files, filepath.Join(file.dir, file.name))
		}
	}
	return files
}

// An authConfig is what Docker's config.json and Podman's auth.json share.
type authConfig struct {
	Auths map[string]struct {
		Auth          string `json:"auth"`
		Username      string `json:"username"`
		Password      string `json:"password"`
		IdentityToken string `json:"identitytoken"`
		RegistryToken string `json:"registrytoken"`
	} `json:"auths"`
	CredsStore  string            `json:"credsStore"`
	CredHelpers map[string]string `json:"credHelpers"`
}

func fileCredential(ctx context.Context, file, registry, repository string) (Credential, error) {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return Credential{}, nil
	}
	if err != nil {
		return Credential{}, err
	}
	defer f.Close()
	data, err := readLimited(f, maxConfig)
	if err != nil {
		return Credential{}, err
	}
	if len(bytes.TrimSpace(data)) == 0 {
		return Credential{}, nil // both tools take it for one without entries
	}
	var config authConfig
	if err := json.Unmarshal(data, &config); err != nil {
		return Credential{}, errors.New("not the JSON of a Docker config or auth file") // the decoder may repeat a secret
	}
	key, specific := config.findAuth(registry, repository)
	if specific {
		return config.auth(key, file)
	}
	for _, helper := range config.helpers(registry) {
		cred, err := askHelper(ctx, helper, registry, file)
		if err != nil || !cred.empty() {
			return cred, err
		}
	}
	if key == "" {
		return Credential{}, nil
	}
	return config.auth(key, file)
}

// findAuth returns the key in auths that fits best, "" if none does; specific
// says that it names a namespace.
func (c *authConfig) findAuth(registry, repository string) (key string, specific bool) {
	keys := make([]string, 0, len(c.Auths))
	for key := range c.Auths {
		keys = append(keys, key)
	}
	// Two spellings of one name: the plain one first, then by letters, so that
	// the choice is always the same one.
	slices.SortFunc(keys, func(a, b string) int {
		plainA, plainB := strings.Contains(a, "://"), strings.Contains(b, "://")
		if plainA != plainB {
			if plainB {
				return -1
			}
			return 1
		}
		return strings.Compare(a, b)
	})
	path := repository
	for {
		for _, key := range keys {
			if host, namespace, ok := splitAuthKey(key); ok && host == registry && namespace == path {
				return key, path != ""
			}
		}
		if path == "" {
			return "", false
		}
		path = path[:max(strings.LastIndexByte(path, '/'), 0)]
	}
}

// splitAuthKey reads a key of auths: a host, a URL, or a host and a namespace.
func splitAuthKey(key string) (host, namespace string, ok bool) {
	rest, isURL := strings.CutPrefix(key, "https://")
	if !isURL {
		rest, isURL = strings.CutPrefix(key, "http://")
	}
	host, namespace, _ = strings.Cut(rest, "/")
	namespace = strings.TrimSuffix(namespace, "/")
	if isURL || namespace == "v1" || namespace == "v2" {
		namespace = "" // the path of an API, as docker login wrote it
	}
	host, err := canonicalHost(host)
	return host, namespace, err == nil
}

func (c *authConfig) auth(key, file string) (Credential, error) {
	entry := c.Auths[key]
	cred := Credential{
		Username:     entry.Username,
		Password:     entry.Password,
		RefreshToken: entry.IdentityToken,
		AccessToken:  entry.RegistryToken,
		Source:       strconv.Quote(file),
	}
	if entry.Auth != "" {
		decoded, err := base64.StdEncoding.DecodeString(entry.Auth)
		username, password, ok := strings.Cut(strings.TrimRight(string(decoded), "\x00"), ":")
		if err != nil || !ok {
			return Credential{}, fmt.Errorf("entry %s: auth is not base64 of USER:PASSWORD", quote(key))
		}
		cred.Username, cred.Password = username, password
	}
	return cred, nil
}

// helpers returns the suffixes of the credential helpers to ask, in order.
func (c *authConfig) helpers(registry string) []string {
	var helpers []string
	keys := make([]string, 0, len(c.CredHelpers))
	for key := range c.CredHelpers {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	for _, key := range keys {
		if host, namespace, ok := splitAuthKey(key); ok && host == registry && namespace == "" && c.CredHelpers[key] != "" {
			helpers = append(helpers, c.CredHelpers[key])
			break
		}
	}
	if len(helpers) == 0 && c.CredsStore != "" {
		helpers = append(helpers, c.CredsStore)
	}
	return helpers
}

// askHelper runs docker-credential-SUFFIX. Docker Hub is asked for by the name
// that docker login stored it under, then by the one of podman login.
func askHelper(ctx context.Context, suffix, registry, file string) (Credential, error) {
	if strings.ContainsAny(suffix, `/\`) {
		return Credential{}, fmt.Errorf("credential helper %s is not a plain name", quote(suffix))
	}
	servers := []string{registry}
	if registry == dockerHub {
		servers = []string{hubServer, dockerHub}
	}
	store := credentials.NewNativeStore(suffix)
	for _, server := range servers {
		got, err := store.Get(ctx, server)
		if err != nil {
			return Credential{}, fmt.Errorf("credential helper %s: %w", quote("docker-credential-"+suffix), shorten(err))
		}
		if got != auth.EmptyCredential {
			return Credential{
				Username:     got.Username,
				Password:     got.Password,
				RefreshToken: got.RefreshToken,
				AccessToken:  got.AccessToken,
				Source:       fmt.Sprintf("credential helper %s, named in %q", quote("docker-credential-"+suffix), file),
			}, nil
		}
	}
	return Credential{}, nil
}

// shorten quotes what a helper printed; errors of the system pass.
func shorten(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) || errors.Is(err, fs.ErrNotExist) || errors.Unwrap(err) != nil {
		return err
	}
	return errors.New(quote(err.Error()))
}
