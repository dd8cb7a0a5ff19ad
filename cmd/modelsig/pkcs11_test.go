package main

import (
	"bytes"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestTokenURIsAreRead(t *testing.T) {
	for _, tt := range []struct {
		name, uri     string
		token, object map[string]string
		check         func(u *tokenURI) bool
	}{
		{"no attribute names any key", "pkcs11:", nil, nil, nil},
		{"attributes of the token", "pkcs11:token=my%20token;manufacturer=M;serial=01;model=X", map[string]string{"token": "my token", "manufacturer": "M", "serial": "01", "model": "X"}, nil, nil},
		{"attributes of module and slot", "pkcs11:slot-id=007;slot-description=d;slot-manufacturer=m;library-description=l;library-manufacturer=n;library-version=2", map[string]string{"slot-id": "7", "slot-description": "d", "slot-manufacturer": "m", "library-description": "l", "library-manufacturer": "n", "library-version": "2.0"}, nil, nil},
		{"attributes of the key", "pkcs11:object=release;id=%00%ffA;type=private", nil, map[string]string{"object": "release", "id": "\x00\xffA"}, nil},
		{"a plus is a plus", "pkcs11:token=a+b", map[string]string{"token": "a+b"}, nil, nil},
		{"an equals sign in a value is one", "pkcs11:token=a=b", map[string]string{"token": "a=b"}, nil, nil},
		{"an ampersand in the path is one", "pkcs11:token=a&b", map[string]string{"token": "a&b"}, nil, nil},
		{"a value may be empty", "pkcs11:token=", map[string]string{"token": ""}, nil, nil},
		{"a value may be UTF-8", "pkcs11:token=%C3%A9", map[string]string{"token": "é"}, nil, nil},
		{"module and PIN stand behind the question mark", "pkcs11:token=t?module-path=/usr/lib/m.so&module-name=m&pin-value=1+2%263", map[string]string{"token": "t"}, nil, func(u *tokenURI) bool {
			return u.modulePath == "/usr/lib/m.so" && u.moduleName == "m" && u.pinValue == "1+2&3" && u.String() == `"pkcs11:token=t"`
		}},
		{"a PIN file stands behind the question mark", "pkcs11:?pin-source=file:/run/pin", nil, nil, func(u *tokenURI) bool { return u.pinSource == "file:/run/pin" }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			u, err := parseTokenURI(tt.uri)
			if err != nil {
				t.Fatal(err)
			}
			if !maps.Equal(u.token, tt.token) || !maps.Equal(u.object, tt.object) || tt.check != nil && !tt.check(u) {
				t.Errorf("got %+v", u)
			}
		})
	}
}

func TestTokenURIsAreRefused(t *testing.T) {
	for _, tt := range []struct {
		name, uri, words string
	}{
		{"another scheme", "PKCS11:token=x", "not a pkcs11: URI"},
		{"an unknown attribute", "pkcs11:token=x;color=red", `attribute "color" is not known`},
		{"a vendor's attribute", "pkcs11:x-vendor=SECRET", `"x-vendor" is not known`},
		{"an unknown query attribute", "pkcs11:token=x?pin=SECRET", `query attribute "pin" is not known`},
		{"a query attribute in the path", "pkcs11:token=x;pin-value=SECRET", `"pin-value" belongs behind a question mark`},
		{"a path attribute in the query", "pkcs11:?token=x", `query attribute "token" is not known`},
		{"an attribute twice", "pkcs11:token=x;token=x", `"token" is there twice`},
		{"a PIN twice", "pkcs11:?pin-value=SECRET&pin-value=SECRET", `"pin-value" is there twice`},
		{"two ways to the PIN", "pkcs11:?pin-value=SECRET&pin-source=/x", "exclude each other"},
		{"no equals sign", "pkcs11:token", "not of the form name=value"},
		{"half of a PIN with a raw ampersand", "pkcs11:?pin-value=ab&SECRET", "not of the form name=value"},
		{"an empty attribute", "pkcs11:token=x;", "an attribute is empty"},
		{"an empty query", "pkcs11:token=x?", "an attribute is empty"},
		{"a raw space", "pkcs11:token=my token", `' ' must be written %20`},
		{"a raw slash in the path", "pkcs11:token=a/b", `'/' must be written %2F`},
		{"a raw hash sign", "pkcs11:token=x#y", `'#' must be written %23`},
		{"raw UTF-8", "pkcs11:token=é", "must be written %C3"},
		{"half a percent code", "pkcs11:token=%4", "two hex digits"},
		{"a percent code of other letters", "pkcs11:token=%zz", "two hex digits"},
		{"text that is not UTF-8", "pkcs11:token=%ff", "not UTF-8"},
		{"a zero byte, which would end a C string", "pkcs11:?pin-value=12%0034", "not UTF-8 text"},
		{"a slot that is no number", "pkcs11:slot-id=-1", "not a number"},
		{"a version that is none", "pkcs11:library-version=2.x", "form 1.2"},
		{"a public key", "pkcs11:type=public", "type=private"},
		{"a certificate", "pkcs11:type=cert", "type=private"},
		{"more than the limit", "pkcs11:token=" + strings.Repeat("x", maxTokenURI), "more than 4096 bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			u, err := parseTokenURI(tt.uri)
			if err == nil {
				t.Fatalf("read as %+v", u)
			}
			if !strings.Contains(err.Error(), tt.words) {
				t.Errorf("got %q, want %q", err, tt.words)
			}
			if strings.Contains(err.Error(), "SECRET") || strings.Contains(keyName(tt.uri), "SECRET") {
				t.Errorf("a PIN is repeated: %q, %q", err, keyName(tt.uri))
			}
		})
	}
}

func FuzzTokenURI(f *testing.F) {
	for _, seed := range []string{
		"pkcs11:", "pkcs11:token=a%20b;object=k;id=%01?module-path=/m.so&pin-value=1234",
		"pkcs11:slot-id=1;library-version=2.6;type=private?pin-source=file:/x",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, err := parseTokenURI(s)
		if err != nil {
			return
		}
		// What may be shown names the same key, and no PIN.
		again, err := parseTokenURI(u.text)
		if err != nil || !maps.Equal(u.token, again.token) || !maps.Equal(u.object, again.object) || len(again.query) != 0 {
			t.Errorf("%q: %+v, %v", s, again, err)
		}
	})
}

func TestTheModuleIsNamed(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "libsofthsm2"+moduleSuffix())
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, query, variable string
		want                  string // the file, or words of the error
	}{
		{"by its path", "?module-path=" + file, "", file},
		{"by the variable", "", file, file},
		{"by its path rather than the variable", "?module-path=" + file, "/nowhere.so", file},
		{"by folder and name", "?module-name=softhsm2&module-path=" + dir, "", file},
		{"by folder in the variable and name", "?module-name=libsofthsm2", dir, file},
		{"by path and the name that it has", "?module-name=SoftHSM2&module-path=" + file, "", file},
		{"not at all", "", "", "no PKCS#11 module is named"},
		{"by a name alone", "?module-name=softhsm2", "", "no PKCS#11 module is named"},
		{"by a relative path", "?module-path=libsofthsm2.so", "", `module-path "libsofthsm2.so" is not an absolute path`},
		{"by a relative path in the variable", "", "libsofthsm2.so", `PKCS11_MODULE_PATH "libsofthsm2.so" is not an absolute path`},
		{"by an empty path, whatever the variable says", "?module-path=", file, "no PKCS#11 module is named"},
		{"by a path where nothing is", "?module-path=" + dir + "/nowhere.so", "", "no such file"},
		{"by a folder alone", "?module-path=" + dir, "", "no module-name"},
		{"by a folder without it", "?module-name=opensc&module-path=" + dir, "", `has no module "opensc"`},
		{"by a name that is a path", "?module-name=../x&module-path=" + dir, "", "is not a name"},
		{"by a path of another name", "?module-name=opensc&module-path=" + file, "", `is not the module-name "opensc"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv(moduleVariable, tt.variable)
			u, err := parseTokenURI("pkcs11:" + tt.query)
			if err != nil {
				t.Fatal(err)
			}
			got, err := u.module()
			if err != nil {
				if tt.want == file || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("got %q, want %q", err, tt.want)
				}
			} else if got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestThePINIsFound(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "pin")
	if err := os.WriteFile(file, []byte("1111\r\nmore"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, query string
		variable    []string // one value, or not set
		want        string   // the PIN, or words of the error
		warned      bool
	}{
		{"in the URI, with a warning", "?pin-value=2222", []string{"3333"}, "2222", true},
		{"in a file, by path", "?pin-source=" + file, []string{"3333"}, "1111", false},
		{"in a file, by URI", "?pin-source=file:" + file, nil, "1111", false},
		{"in a file, by URI with an empty host", "?pin-source=file://" + file, nil, "1111", false},
		{"in the variable", "", []string{"3333"}, "3333", false},
		{"nowhere, and there is no terminal", "", nil, "there is no terminal", false},
		{"not where it is empty", "?pin-value=", []string{"3333"}, "the PIN is empty", true},
		{"not in an empty variable", "", []string{""}, "the PIN is empty", false},
		{"not in a file that is not there", "?pin-source=" + dir + "/nowhere", []string{"3333"}, "no such file", false},
		{"not by a relative path", "?pin-source=pin", []string{"3333"}, "not an absolute path", false},
		{"not from a program", "?pin-source=|cat", []string{"3333"}, "not an absolute path", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if t.Setenv(pinVariable, ""); tt.variable == nil {
				if err := os.Unsetenv(pinVariable); err != nil {
					t.Fatal(err)
				}
			} else {
				t.Setenv(pinVariable, tt.variable[0])
			}
			u, err := parseTokenURI("pkcs11:" + tt.query)
			if err != nil {
				t.Fatal(err)
			}
			var stderr bytes.Buffer
			a := &app{stdin: strings.NewReader(""), stderr: &stderr}
			got, err := a.tokenPIN(u, `"t"`)
			if err != nil {
				if slices.Contains([]string{"1111", "2222", "3333"}, tt.want) || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("got %q, want %q", err, tt.want)
				}
			} else if got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			if warned := stderr.Len() > 0; warned != tt.warned || strings.Contains(stderr.String(), "2222") {
				t.Errorf("warned: %q", stderr.String())
			}
		})
	}
}
