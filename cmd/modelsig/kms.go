package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/kms/cliplugin"
	"github.com/sigstore/sigstore/pkg/signature/kms/cliplugin/common"
	"github.com/sigstore/sigstore/pkg/signature/kms/cliplugin/encoding"
	"github.com/sigstore/sigstore/pkg/signature/options"

	"github.com/modelsig/modelsig/bundle"
)

// A plugin is a program that knows a key, in a KMS or elsewhere: the key
// NAME://RESOURCE is asked of the program sigstore-kms-NAME in PATH, which gets
// RESOURCE. The protocol and its types are sigstore's (cliplugin); to run the
// program is ours, so that what it writes is bounded, escaped, and read only
// where it is there.
type plugin struct {
	program, resource string
	stderr            io.Writer // what the program says to the person
}

const (
	// maxPluginAnswer bounds the one JSON object that a plugin writes. A public
	// key in PEM and a signature have 2 KiB at most, in base64.
	maxPluginAnswer = 64 << 10
	// maxPluginNotes bounds what is shown of a plugin's stderr in one call: a
	// prompt or a trace, not a flood.
	maxPluginNotes = 64 << 10
	// maxQuoted is how much of foreign text an error repeats, escaped (rule 26).
	maxQuoted = 256
	// pluginGrace is how long the pipes of a plugin that was ended may stay
	// open: its children may hold them.
	pluginGrace = time.Second
)

// pluginOf returns the plugin that a key NAME://RESOURCE is asked of; false: the
// key is no plugin's. What is not a plain word before :// is a file name: it
// must not become the path of a program.
func (a *app) pluginOf(key string) (*plugin, bool) {
	name, resource, found := strings.Cut(key, "://")
	if !found || len(name) < 2 || name == "env" || name == "file" || name == "pkcs11" {
		return nil, false
	}
	for i, r := range name {
		alnum := 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9'
		if !alnum && (i == 0 || !strings.ContainsRune("+-._", r)) {
			return nil, false
		}
	}
	return &plugin{cliplugin.PluginBinaryPrefix + name, resource, a.stderr}, true
}

// publicKey asks the plugin for its public key, in PEM.
func (p *plugin) publicKey(ctx context.Context) ([]byte, error) {
	answer, err := p.call(ctx, crypto.SHA256, nil, &common.MethodArgs{
		MethodName: common.PublicKeyMethodName,
		PublicKey: &common.PublicKeyArgs{
			PublicKeyOptions: encoding.PackPublicKeyOptions([]signature.PublicKeyOption{options.WithContext(ctx)}),
		},
	})
	if err != nil {
		return nil, err
	}
	if answer.PublicKey == nil {
		return nil, fmt.Errorf("plugin %s: the answer has no public key", p.program)
	}
	return answer.PublicKey.PublicKeyPEM, nil
}

// key is the plugin's key. Its public half is asked for once.
func (p *plugin) key(ctx context.Context) (crypto.Signer, error) {
	data, err := p.publicKey(ctx)
	if err != nil {
		return nil, err
	}
	public, err := bundle.ParsePublicKey(data)
	if err != nil {
		return nil, fmt.Errorf("plugin %s: %w", p.program, err)
	}
	return &pluginKey{ctx, p, public}, nil
}

// A pluginKey signs by its plugin. It keeps the context of the command:
// crypto.Signer has no place for one, and a hung plugin must end with it.
type pluginKey struct {
	ctx    context.Context
	plugin *plugin
	public crypto.PublicKey
}

func (k *pluginKey) Public() crypto.PublicKey { return k.public }

// Sign signs a digest, or with an Ed25519 key the message itself. The signature
// comes back as the plugin made it: bundle checks it with the public key.
func (k *pluginKey) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if _, pss := opts.(*rsa.PSSOptions); pss {
		return nil, fmt.Errorf("plugin %s: RSA-PSS is not in the protocol", k.plugin.program)
	}
	with := []signature.SignOption{options.WithContext(k.ctx), options.WithCryptoSignerOpts(opts.HashFunc())}
	message := digest
	if _, pure := k.public.(ed25519.PublicKey); !pure || opts.HashFunc() != 0 {
		with = append(with, options.WithDigest(digest))
		message = nil
	}
	answer, err := k.plugin.call(k.ctx, opts.HashFunc(), message, &common.MethodArgs{
		MethodName:  common.SignMessageMethodName,
		SignMessage: &common.SignMessageArgs{SignOptions: encoding.PackSignOptions(with)},
	})
	if err != nil {
		return nil, err
	}
	if answer.SignMessage == nil || len(answer.SignMessage.Signature) == 0 {
		return nil, fmt.Errorf("plugin %s: the answer has no signature", k.plugin.program)
	}
	return answer.SignMessage.Signature, nil
}

// call runs the program once. As the protocol has it, an error is in the answer,
// and the exit code of a program that answered says nothing.
func (p *plugin) call(ctx context.Context, hash crypto.Hash, message []byte, method *common.MethodArgs) (*common.PluginResp, error) {
	program, err := exec.LookPath(p.program)
	if errors.Is(err, exec.ErrNotFound) {
		return nil, &hinted{
			fmt.Errorf("the program %s, which knows such keys, is not in PATH", p.program),
			"keys NAME://… are asked of sigstore's plugin sigstore-kms-NAME",
		}
	}
	if err != nil {
		return nil, fmt.Errorf("plugin: %w", err) // names the program
	}
	initial := &common.InitOptions{
		ProtocolVersion: common.ProtocolVersion,
		KeyResourceID:   p.resource,
		HashFunc:        hash,
		RPCOptions:      encoding.PackRPCOptions(nil),
	}
	if deadline, ok := ctx.Deadline(); ok {
		initial.CtxDeadline = &deadline
	}
	args, err := json.Marshal(&common.PluginArgs{InitOptions: initial, MethodArgs: method})
	if err != nil {
		return nil, fmt.Errorf("plugin %s: %w", p.program, err)
	}
	answer := &capped{left: maxPluginAnswer}
	notes := &foreignLines{w: p.stderr, prefix: p.program + ": ", left: maxPluginNotes}
	cmd := exec.CommandContext(ctx, program, common.ProtocolVersion, string(args))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(message), answer, notes
	cmd.WaitDelay = pluginGrace
	err = cmd.Run()
	notes.flush()
	if ctx.Err() != nil {
		return nil, fmt.Errorf("plugin %s: %w", p.program, context.Cause(ctx))
	}
	if answer.over {
		return nil, fmt.Errorf("plugin %s: the answer is longer than %d bytes", p.program, maxPluginAnswer)
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && (!ok || exit.ExitCode() < 1) {
		return nil, fmt.Errorf("plugin %s: %w", p.program, err)
	}
	var response common.PluginResp
	if parseErr := json.Unmarshal(answer.data, &response); parseErr != nil {
		if err != nil {
			return nil, fmt.Errorf("plugin %s: %w, and no answer of the protocol", p.program, err)
		}
		return nil, fmt.Errorf("plugin %s: the answer %s is not of the protocol", p.program, quote(string(answer.data)))
	}
	if response.ErrorMessage != "" {
		return nil, fmt.Errorf("plugin %s says %s", p.program, quote(response.ErrorMessage))
	}
	return &response, nil
}

// capped keeps what is written to it, up to a limit.
type capped struct {
	data []byte
	left int
	over bool
}

func (c *capped) Write(p []byte) (int, error) {
	if len(p) > c.left {
		c.over = true
		return 0, errors.New("too long")
	}
	c.data, c.left = append(c.data, p...), c.left-len(p)
	return len(p), nil
}

// foreignLines passes on the lines of another program as they come, so that a
// person sees what it asks for; escaped (rule 36), and not without end.
type foreignLines struct {
	w      io.Writer
	prefix string
	line   []byte
	left   int
}

func (f *foreignLines) Write(p []byte) (int, error) {
	n := len(p)
	p = p[:min(len(p), f.left)]
	f.left -= len(p)
	for len(p) > 0 {
		before, after, found := bytes.Cut(p, []byte("\n"))
		f.line = append(f.line, before...)
		if found {
			f.flush()
		}
		p = after
	}
	return n, nil
}

// flush writes the line that has begun.
func (f *foreignLines) flush() {
	if line := strings.TrimRight(string(f.line), "\r"); line != "" {
		fmt.Fprintf(f.w, "%s%s\n", f.prefix, printable(line))
	}
	f.line = f.line[:0]
}

// quote quotes foreign text in at most maxQuoted bytes, escapes included.
func quote(s string) string {
	q := strconv.Quote(s)
	for n := min(len(s), maxQuoted); len(q) > maxQuoted; n -= max(1, (len(q)-maxQuoted)/4) {
		q = strconv.Quote(s[:n] + "…")
	}
	return q
}
