package main

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/term"

	"github.com/modelsig/modelsig"
	"github.com/modelsig/modelsig/bundle"
)

type keyFlags struct {
	PrivateKey   string `aliases:"key" placeholder:"KEY" help:"Private key: a PEM file, env://NAME for a variable that holds the PEM, pkcs11:… for a token, NAME://… for the plugin sigstore-kms-NAME."`
	PasswordFile string `placeholder:"FILE" help:"Password of a PEM key. Default: MODELSIG_PASSWORD, else asked on the terminal."`
	Password     string `hidden:"" help:"Password of a PEM key, for all processes of the machine to see, as in the OMS tools."`
}

// passwordVariable holds the password of a private key.
const passwordVariable = "MODELSIG_PASSWORD"

// keySigner makes a signer of the private key.
func (a *app) keySigner(ctx context.Context, f keyFlags) (modelsig.Signer, error) {
	key, err := a.privateKey(ctx, f)
	if err != nil {
		return nil, err
	}
	signer, err := bundle.NewKeySigner(key)
	if err != nil {
		return nil, fmt.Errorf("private key %s: %w", keyName(f.PrivateKey), err)
	}
	return signer, nil
}

// privateKey is the one door to private keys, whatever the method: a PEM file or
// variable, a key in a token, a key that a plugin knows. What signs with the key
// checks the signature with its public half.
func (a *app) privateKey(ctx context.Context, f keyFlags) (crypto.Signer, error) {
	if f.PrivateKey == "" {
		return nil, errors.New("no --private-key: there is nothing to sign with")
	}
	token := strings.HasPrefix(f.PrivateKey, tokenScheme)
	plugin, ok := a.pluginOf(f.PrivateKey)
	if (token || ok) && (f.PasswordFile != "" || f.Password != "") {
		return nil, fmt.Errorf("--password-file is for PEM keys, and %s is not one", keyName(f.PrivateKey))
	}
	var key crypto.Signer
	var err error
	switch {
	case token:
		key, err = a.tokenKey(ctx, f.PrivateKey)
	case ok:
		key, err = plugin.key(ctx)
	default:
		return a.pemKey(f)
	}
	if err != nil {
		return nil, fmt.Errorf("private key %s: %w", keyName(f.PrivateKey), err)
	}
	return key, nil
}

// keyName is a key as messages name it: a pkcs11: URI may hold a PIN, behind the
// question mark if it is well-formed.
func keyName(key string) string {
	if !strings.HasPrefix(key, tokenScheme) {
		return key
	}
	if u, err := parseTokenURI(key); err == nil {
		return u.String()
	}
	return tokenScheme + "…"
}

func (a *app) pemKey(f keyFlags) (crypto.Signer, error) {
	data, err := a.readPrivateKey(f.PrivateKey)
	if err != nil {
		return nil, err
	}
	key, err := bundle.ParsePrivateKey(data, func() ([]byte, error) {
		switch {
		case f.Password != "" && f.PasswordFile != "":
			return nil, errors.New("--password and --password-file exclude each other")
		case f.Password != "":
			a.warn("--password stands on the command line, where every user of this machine can read it: --password-file or " + passwordVariable + " does not")
			return []byte(f.Password), nil
		}
		return a.password(f.PasswordFile, f.PrivateKey)
	})
	if err != nil {
		err = fmt.Errorf("private key %s: %w", f.PrivateKey, err)
		if errors.Is(err, bundle.ErrPassword) {
			err = &hinted{err, "the password comes from --password-file, " + passwordVariable + ", or the terminal"}
		}
		return nil, err
	}
	return key, nil
}

func (a *app) readPrivateKey(name string) ([]byte, error) {
	if variable, ok := strings.CutPrefix(name, "env://"); ok {
		value, ok := os.LookupEnv(variable)
		if !ok || value == "" {
			return nil, fmt.Errorf("private key %s: the variable is not set", name)
		}
		return []byte(value), nil
	}
	info, err := os.Stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, &hinted{fmt.Errorf("private key: %w", err), "modelsig keygen makes a key pair"}
	case err != nil:
		return nil, fmt.Errorf("private key: %w", err)
	case info.Mode().IsRegular() && info.Mode().Perm()&0o007 != 0 && runtime.GOOS != "windows":
		a.warn(fmt.Sprintf("private key %s: every user of this machine can read it (mode %04o)", name, info.Mode().Perm()))
	}
	return readSecret(name)
}

// readSecret reads a key or a password.
func readSecret(name string) ([]byte, error) { return readSmall(name, maxSecret) }

// readSmall reads a file of at most limit bytes; it may be a pipe.
func readSmall(name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("read %s: more than %d bytes", name, limit)
	}
	return data, nil
}

// password finds the password of an encrypted key: a file, the variable, the
// terminal. Nothing is tried after one of them was named.
func (a *app) password(file, what string) ([]byte, error) {
	if file != "" {
		data, err := readSecret(file)
		if err != nil {
			return nil, fmt.Errorf("password: %w", err)
		}
		return []byte(firstLine(string(data))), nil
	}
	if value, ok := os.LookupEnv(passwordVariable); ok {
		return []byte(value), nil
	}
	return a.ask("Password of " + what + ": ")
}

// errNoTerminal: there is nobody to ask.
var errNoTerminal = errors.New("a password is needed, and there is no terminal to ask on")

// ask reads a password from the terminal without showing it.
func (a *app) ask(prompt string) ([]byte, error) {
	in, ok := a.stdin.(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return nil, &hinted{errNoTerminal, "--password-file FILE or " + passwordVariable + " gives it"}
	}
	if _, err := io.WriteString(a.stderr, prompt); err != nil {
		return nil, err
	}
	data, err := term.ReadPassword(int(in.Fd()))
	if _, nlErr := io.WriteString(a.stderr, "\n"); nlErr != nil {
		return nil, nlErr
	}
	return data, err
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return strings.TrimSuffix(line, "\r")
}

// keyPolicy trusts these public keys: files, or NAME://… of plugins.
func (a *app) keyPolicy(ctx context.Context, keys []string) (modelsig.Policy, error) {
	if len(keys) == 0 {
		return modelsig.Policy{}, errors.New("no --public-key: nobody is trusted")
	}
	pems := make([][]byte, len(keys))
	for i, name := range keys {
		data, err := a.publicKey(ctx, name)
		if err != nil {
			return modelsig.Policy{}, fmt.Errorf("public key: %w", err)
		}
		if _, err := bundle.ParsePublicKey(data); err != nil {
			return modelsig.Policy{}, fmt.Errorf("public key %s: %w", name, err)
		}
		pems[i] = data
	}
	return modelsig.KeyPolicy(pems...)
}

// publicKey reads a public key, in PEM.
func (a *app) publicKey(ctx context.Context, name string) ([]byte, error) {
	if plugin, ok := a.pluginOf(name); ok {
		return plugin.publicKey(ctx)
	}
	if strings.HasPrefix(name, tokenScheme) {
		return nil, errors.New("a key in a token is no public key: export it to a file")
	}
	return readSecret(name)
}

type keygenCmd struct {
	Curve        string `enum:"p256,p384,p521,ed25519" default:"p256" help:"Curve (${enum}). The OMS specification knows the first three."`
	Output       string `short:"o" default:"modelsig" placeholder:"NAME" help:"Write NAME.key and NAME.pub."`
	PasswordFile string `placeholder:"FILE" help:"Password for the private key. Default: MODELSIG_PASSWORD, else asked on the terminal."`
	NoPassword   bool   `help:"Do not encrypt the private key."`
}

func (k *keygenCmd) Run(_ context.Context, a *app) error {
	private, public := k.Output+".key", k.Output+".pub"
	for _, name := range []string{private, public} {
		if _, err := os.Lstat(name); err == nil {
			return fmt.Errorf("%s exists: a key is never overwritten", name)
		}
	}
	password, err := k.newPassword(a, private)
	if err != nil {
		return err
	}
	key, err := bundle.GenerateKey(k.Curve)
	if err != nil {
		return err
	}
	privatePEM, err := bundle.MarshalPrivateKey(key, password)
	if err != nil {
		return err
	}
	publicPEM, err := bundle.MarshalPublicKey(key.Public())
	if err != nil {
		return err
	}
	fingerprint, err := bundle.Fingerprint(key.Public())
	if err != nil {
		return err
	}
	if err := writeNew(private, privatePEM, 0o600); err != nil {
		return err
	}
	if err := writeNew(public, publicPEM, 0o644); err != nil {
		return errors.Join(err, os.Remove(private))
	}
	out := &answer{first: "Key pair made"}
	out.add("private key", "%s", private)
	out.add("public key", "%s", public)
	out.add("fingerprint", "%s", fingerprint)
	var answers answers[keygenJSON]
	if err := answers.add(a, out, keygenJSON{private, public, fingerprint, k.Curve, len(password) > 0}, ""); err != nil {
		return err
	}
	return answers.finish(a, "modelsig/keygen/v1")
}

// keygenJSON is schema modelsig/keygen/v1.
type keygenJSON struct {
	PrivateKey     string `json:"privateKey"`
	PublicKey      string `json:"publicKey"`
	KeyFingerprint string `json:"keyFingerprint"`
	Curve          string `json:"curve"`
	Encrypted      bool   `json:"encrypted"`
}

func (k *keygenCmd) newPassword(a *app, name string) ([]byte, error) {
	if k.NoPassword {
		if k.PasswordFile != "" {
			return nil, errors.New("--no-password and --password-file exclude each other")
		}
		return nil, nil
	}
	first, err := a.password(k.PasswordFile, name)
	if errors.Is(err, errNoTerminal) {
		return nil, &hinted{errNoTerminal, "--password-file FILE, " + passwordVariable + ", or --no-password"}
	}
	if err != nil {
		return nil, err
	}
	if len(first) == 0 {
		return nil, &hinted{errors.New("the password is empty"), "--no-password makes a key that is not encrypted"}
	}
	if _, fromVariable := os.LookupEnv(passwordVariable); k.PasswordFile != "" || fromVariable {
		return first, nil
	}
	second, err := a.ask("Again: ")
	if err != nil {
		return nil, err
	}
	if string(first) != string(second) {
		return nil, errors.New("the two passwords differ")
	}
	return first, nil
}

// writeNew writes a file that must not exist, whole or not at all: the content
// is complete before the final name appears, and the name is never taken from
// another.
func writeNew(name string, data []byte, mode os.FileMode) error {
	tmp, err := os.CreateTemp(filepath.Dir(name), ".modelsig-*.tmp")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(data)
	if err == nil {
		err = tmp.Chmod(mode)
	}
	if err == nil {
		err = tmp.Sync()
	}
	if err = errors.Join(err, tmp.Close()); err != nil {
		return err
	}
	return os.Link(tmp.Name(), name)
}
