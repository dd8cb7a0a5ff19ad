package main

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"unicode/utf8"
)

const (
	// tokenScheme begins the URI of a key in a PKCS#11 token (RFC 7512).
	tokenScheme = "pkcs11:"
	// pinVariable holds the PIN of a token, as in the OMS tools.
	pinVariable = "PKCS11_PIN"
	// moduleVariable holds what module-path does.
	moduleVariable = "PKCS11_MODULE_PATH"
	// maxTokenURI bounds a pkcs11: URI in bytes. One with all attributes of a
	// token at their full length has 1 KiB.
	maxTokenURI = 4 << 10
)

// A tokenURI is a pkcs11: URI that names a private key (RFC 7512). Each attribute
// that it has must hold of the key; those it does not have may be anything.
type tokenURI struct {
	text   string            // before the question mark: what may be shown
	token  map[string]string // attributes of module, slot and token
	object map[string]string // "object" and "id"

	pinValue, pinSource    string
	moduleName, modulePath string
	query                  map[string]bool // attributes behind the question mark that were given
}

// String is the URI without its query, which may hold a PIN.
func (u *tokenURI) String() string { return quote(u.text) }

// parseTokenURI reads a pkcs11: URI. It takes what RFC 7512 §2.3 allows, and
// refuses attributes that it does not know: an attribute that were passed over
// would pick another key. Errors repeat no values, one of which may be a PIN.
func parseTokenURI(s string) (*tokenURI, error) {
	if len(s) > maxTokenURI {
		return nil, fmt.Errorf("the URI has more than %d bytes", maxTokenURI)
	}
	rest, ok := strings.CutPrefix(s, tokenScheme)
	if !ok {
		return nil, errors.New("not a pkcs11: URI")
	}
	u := &tokenURI{token: map[string]string{}, object: map[string]string{}, query: map[string]bool{}}
	path, query, hasQuery := strings.Cut(rest, "?")
	u.text = tokenScheme + path
	seen := map[string]bool{}
	if path != "" {
		for part := range strings.SplitSeq(path, ";") {
			name, value, err := tokenAttribute(part, pathMarks, seen)
			if err != nil {
				return nil, err
			}
			if err := u.setPath(name, value); err != nil {
				return nil, err
			}
		}
	}
	if hasQuery {
		for part := range strings.SplitSeq(query, "&") {
			name, value, err := tokenAttribute(part, queryMarks, seen)
			if err != nil {
				return nil, err
			}
			if err := u.setQuery(name, value); err != nil {
				return nil, err
			}
		}
	}
	if u.query["pin-value"] && u.query["pin-source"] {
		return nil, errors.New("pin-value and pin-source exclude each other (RFC 7512 §2.4)")
	}
	return u, nil
}

// Characters that stand for themselves beside letters and digits (RFC 7512 §2.3).
const (
	unreserved = "-._~"
	pathMarks  = unreserved + ":[]@!$'()*+,=&"
	queryMarks = unreserved + ":[]@!$'()*+,=/?|"
)

// tokenAttribute reads one name=value. A plus is a plus: this is no HTML form.
func tokenAttribute(part, marks string, seen map[string]bool) (name, value string, err error) {
	name, encoded, found := strings.Cut(part, "=")
	switch {
	case part == "":
		return "", "", errors.New("an attribute is empty")
	case !found:
		// Not repeated: it may be half of a PIN.
		return "", "", errors.New("an attribute is not of the form name=value")
	case seen[name]:
		return "", "", fmt.Errorf("attribute %s is there twice", quote(name))
	}
	seen[name] = true
	for i := 0; i < len(encoded); i++ {
		c := encoded[i]
		alnum := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		if !alnum && c != '%' && strings.IndexByte(marks, c) < 0 {
			return "", "", fmt.Errorf("attribute %s: the byte %q must be written %%%02X", quote(name), c, c)
		}
	}
	value, err = url.PathUnescape(encoded)
	if err != nil {
		return "", "", fmt.Errorf("attribute %s: a %% is not followed by two hex digits", quote(name))
	}
	if name != "id" && (!utf8.ValidString(value) || strings.ContainsRune(value, 0)) {
		return "", "", fmt.Errorf("attribute %s is not UTF-8 text", quote(name))
	}
	return name, value, nil
}

func (u *tokenURI) setPath(name, value string) error {
	switch name {
	case "token", "manufacturer", "serial", "model",
		"library-manufacturer", "library-description",
		"slot-manufacturer", "slot-description":
		u.token[name] = value
	case "library-version":
		major, minor, found := strings.Cut(value, ".")
		if !found {
			minor = "0"
		}
		a, errA := strconv.ParseUint(major, 10, 8)
		b, errB := strconv.ParseUint(minor, 10, 8)
		if errA != nil || errB != nil {
			return errors.New(`attribute "library-version" is not of the form 1.2`)
		}
		u.token[name] = fmt.Sprintf("%d.%d", a, b)
	case "slot-id":
		n, err := strconv.ParseUint(value, 10, 64)
		if err != nil {
			return errors.New(`attribute "slot-id" is not a number`)
		}
		u.token[name] = strconv.FormatUint(n, 10)
	case "object", "id":
		u.object[name] = value
	case "type":
		if value != "private" {
			return fmt.Errorf("type=%s: signing needs type=private, or no type", quote(value))
		}
	case "pin-value", "pin-source", "module-name", "module-path":
		return fmt.Errorf("attribute %s belongs behind a question mark", quote(name))
	default:
		return fmt.Errorf("attribute %s is not known", quote(name))
	}
	return nil
}

func (u *tokenURI) setQuery(name, value string) error {
	switch name {
	case "pin-value":
		u.pinValue = value
	case "pin-source":
		u.pinSource = value
	case "module-name":
		u.moduleName = value
	case "module-path":
		u.modulePath = value
	default:
		return fmt.Errorf("query attribute %s is not known", quote(name))
	}
	u.query[name] = true
	return nil
}

// module is the file of the PKCS#11 module: module-path or else
// PKCS11_MODULE_PATH, which may name a folder if module-name names a module in
// it. There is no list of places to look in: a module is code that sees the PIN.
func (u *tokenURI) module() (string, error) {
	path, what := u.modulePath, "module-path"
	if !u.query["module-path"] {
		path, what = os.Getenv(moduleVariable), moduleVariable
	}
	if path == "" {
		return "", &hinted{errors.New("no PKCS#11 module is named"), "module-path=/… in the URI, behind a question mark, or " + moduleVariable + " names its file"}
	}
	if !filepath.IsAbs(path) {
		return "", fmt.Errorf("%s %s is not an absolute path", what, quote(path))
	}
	info, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("%s: %w", what, err)
	}
	if !info.IsDir() {
		if u.query["module-name"] && !strings.EqualFold(moduleNameOf(path), moduleNameOf(u.moduleName)) {
			return "", fmt.Errorf("%s %s is not the module-name %s", what, quote(path), quote(u.moduleName))
		}
		return path, nil
	}
	if u.moduleName == "" {
		return "", fmt.Errorf("%s %s is a folder, and no module-name says which module in it", what, quote(path))
	}
	if u.moduleName != filepath.Base(u.moduleName) {
		return "", fmt.Errorf("module-name %s is not a name", quote(u.moduleName))
	}
	for _, prefix := range []string{"", "lib"} {
		file := filepath.Join(path, prefix+u.moduleName+moduleSuffix())
		if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
			return file, err
		}
	}
	return "", fmt.Errorf("%s %s has no module %s", what, quote(path), quote(u.moduleName))
}

func moduleSuffix() string {
	switch runtime.GOOS {
	case "windows":
		return ".dll"
	case "darwin":
		return ".dylib"
	}
	return ".so"
}

// moduleNameOf is the name of a module without what systems put around it.
func moduleNameOf(path string) string {
	name := filepath.Base(path)
	for _, suffix := range []string{".so", ".dylib", ".dll"} {
		name = strings.TrimSuffix(name, suffix)
	}
	return strings.TrimPrefix(name, "lib")
}

// tokenPIN finds the PIN of a token: in the URI, in PKCS11_PIN, or at the
// terminal. Nothing is tried after one of them was named.
func (a *app) tokenPIN(u *tokenURI, token string) (string, error) {
	pin, err := a.findPIN(u, token)
	if err == nil && pin == "" {
		return "", errors.New("the PIN is empty") // tokens count it as a wrong one
	}
	return pin, err
}

func (a *app) findPIN(u *tokenURI, token string) (string, error) {
	switch {
	case u.query["pin-value"]:
		a.warn("pin-value: every user of this machine can read a command line; pin-source=file:/… or " + pinVariable + " hides the PIN")
		return u.pinValue, nil
	case u.query["pin-source"]:
		file := strings.TrimPrefix(strings.TrimPrefix(u.pinSource, "file://"), "file:")
		if !filepath.IsAbs(file) {
			// RFC 7512 §2.4 also has "|program", which we do not run.
			return "", errors.New("pin-source is not an absolute path, nor file: and one")
		}
		data, err := readSecret(file)
		if err != nil {
			return "", fmt.Errorf("pin-source: %w", err)
		}
		return firstLine(string(data)), nil
	}
	if pin, ok := os.LookupEnv(pinVariable); ok {
		return pin, nil
	}
	pin, err := a.ask("PIN of token " + token + ": ")
	if errors.Is(err, errNoTerminal) {
		return "", &hinted{
			errors.New("a PIN is needed, and there is no terminal to ask on"),
			"pin-source=file:/… in the URI, behind a question mark, or " + pinVariable + " gives it",
		}
	}
	return string(pin), err
}

// tokenKey opens the one private key that a pkcs11: URI names. The token stays
// open until the program ends: see [app.hold].
func (a *app) tokenKey(ctx context.Context, key string) (crypto.Signer, error) {
	u, err := parseTokenURI(key)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	token, err := openTokenKey(u, func(token string) (string, error) { return a.tokenPIN(u, token) })
	if err != nil {
		return nil, err
	}
	a.hold(token)
	return token, nil
}
