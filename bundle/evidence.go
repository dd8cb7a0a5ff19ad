package bundle

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"time"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	sigbundle "github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/tlog"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/signature"
)

// maxProvedEntries is how many entries that prove a signature are heeded, of those that say something new: another promised time, or another log. Each costs
// a pass over the payload, of up to half a GiB; all others fail before it. Tools write one or two.
const maxProvedEntries = 8

// A provedEntry is a log entry that proves the signature, all by itself.
type provedEntry struct {
	log  *root.TransparencyLog
	time time.Time // that it promises; zero without a promise
}

// provedEntries returns the entries that prove e's signature, at least one. sigstore-go refuses all of them for one that fails, so it sees them one by one.
// The error is about the first entry in a log of the trusted root, if there is one.
func (v *sigstoreVerifier) provedEntries(e *entity, w *wireBundle) ([]provedEntry, error) {
	var proved []provedEntry
	var broken error
	for i := range w.Material.LogEntries {
		entry := &w.Material.LogEntries[i]
		log := v.log(entry)
		if log == nil {
			continue
		}
		p, read, err := v.readEntry(e, log, entry, w.MediaType == mediaTypeV01)
		if err == nil && slices.ContainsFunc(proved, p.addsNothingTo) {
			continue
		}
		if err == nil {
			if _, err = verify.VerifyTlogEntry(e.withEntry(read), v.material, 1, true); err != nil {
				err = noLog("%s", quote(err.Error()))
			}
		}
		if err != nil {
			if broken == nil {
				broken = err
			}
			continue
		}
		if proved = append(proved, p); len(proved) == maxProvedEntries {
			break
		}
	}
	if len(proved) > 0 {
		return proved, nil
	}
	if broken == nil {
		broken = noLog("the entry is in none of them")
	}
	return nil, broken
}

func noLog(format string, args ...any) error {
	return fmt.Errorf("no transparency log of the trusted root proves the signature: "+format, args...)
}

// addsNothingTo says whether another entry serves as well: whatever p proves of a time, the other does, too.
func (p provedEntry) addsNothingTo(other provedEntry) bool {
	return p.log == other.log && (p.time.IsZero() || p.time.Equal(other.time))
}

// log is the one that an entry names, if the trusted root has it.
func (v *sigstoreVerifier) log(entry *wireLogEntry) *root.TransparencyLog {
	if entry.LogID == nil {
		return nil
	}
	return v.material.RekorLogs()[hex.EncodeToString(entry.LogID.KeyID)]
}

// readEntry takes all the steps but VerifyTlogEntry, which is the one that costs: an entry that anybody may have added costs no pass over the payload.
func (v *sigstoreVerifier) readEntry(e *entity, log *root.TransparencyLog, w *wireLogEntry, promiseSuffices bool) (provedEntry, *tlog.Entry, error) {
	fail := func(err error) (provedEntry, *tlog.Entry, error) { return provedEntry{}, nil, err }
	if w.InclusionProof == nil && !promiseSuffices {
		return fail(noLog("the entry has no inclusion proof, which bundles have since v0.2"))
	}
	entry, err := tlog.ParseTransparencyLogEntry(w.proto())
	if err == nil {
		err = tlog.ValidateEntry(entry)
	}
	if err != nil {
		return fail(noLog("the entry cannot be read: %s", quote(err.Error())))
	}
	if entry.IsRekorV2() && !e.isAbout(entry) {
		return fail(noLog("the entry is about another signature"))
	}
	if entry.HasInclusionProof() {
		if err := checkProof(log, entry); err != nil {
			return fail(noLog("%s", quote(err.Error())))
		}
	}
	if entry.HasInclusionPromise() { // and whether the log's key was valid then; sigstore-go skips such an entry without a word
		if err := tlog.VerifySET(entry, v.material.RekorLogs()); err != nil {
			return fail(noLog("%s", quote(err.Error())))
		}
	}
	if t := entry.IntegratedTime(); !t.IsZero() && (t.Before(e.leaf.NotBefore) || t.After(e.leaf.NotAfter)) {
		return fail(notValidAt(e.leaf, t))
	}
	p := provedEntry{log: log}
	if entry.HasInclusionPromise() { // nobody signs the time of an entry without one
		p.time = entry.IntegratedTime().UTC()
	}
	return p, entry, nil
}

// isAbout says whether an entry in the form of Rekor v2 is about this signature and certificate, field by field. sigstore-go looks at the fields of one of Rekor v1,
// but for this one makes the entry's hash anew, and not even that where the checkpoint looks like one of Rekor v1.
func (e *entity) isAbout(entry *tlog.Entry) bool {
	certificate, ok := entry.PublicKey().(*x509.Certificate)
	return ok && certificate.Equal(e.leaf) && bytes.Equal(entry.Signature(), e.sig)
}

// checkProof wants the entry's body as it stands to be in the log, by a checkpoint in the form that goes with the entry's. sigstore-go chooses by the checkpoint.
func checkProof(log *root.TransparencyLog, entry *tlog.Entry) error {
	u, err := url.Parse(log.BaseURL)
	if err != nil {
		return fmt.Errorf("the log's address in the trusted root: %w", err)
	}
	key, err := signature.LoadVerifier(log.PublicKey, log.SignatureHashFunc)
	if err != nil {
		return fmt.Errorf("the log's key cannot be used: %w", err)
	}
	if entry.IsRekorV2() {
		return tlog.VerifyCheckpointAndInclusion(entry, key, u.Hostname())
	}
	return tlog.VerifyInclusion(entry, key)
}

// provedTime says when the signature was made: at a time at which the certificate, its authority and the log of one of the entries were valid.
func (v *sigstoreVerifier) provedTime(e *entity, entries []provedEntry, stamps *wireTimestamps) (time.Time, string, error) {
	var why error
	promised := slices.DeleteFunc(slices.Clone(entries), func(p provedEntry) bool { return p.time.IsZero() })
	slices.SortFunc(promised, func(a, b provedEntry) int { return a.time.Compare(b.time) })
	// A token can be taken off a bundle, and its log entry cannot: the log's time is the one that stays.
	for _, p := range promised {
		err := v.checkTime(e.leaf, p.time)
		if err == nil {
			return p.time, TimeLog, nil
		}
		if why == nil {
			why = err
		}
	}
	times, noStamp := v.stampedTimes(e, stamps)
	for _, t := range times {
		err := v.checkTime(e.leaf, t)
		if err == nil {
			err = checkLogKeys(entries, t)
		}
		if err == nil {
			return t, TimeTimestamp, nil
		}
		if why == nil {
			why = err
		}
	}
	if why == nil {
		why = fmt.Errorf("nobody proves when the signature was made: %w", noStamp)
	}
	return time.Time{}, "", why
}

// stampedTimes returns the times that authorities of the trusted root prove for e's signature, the earliest first. sigstore-go takes but one token of an authority,
// so it sees them one by one. With no time the error is about the first token.
func (v *sigstoreVerifier) stampedTimes(e *entity, stamps *wireTimestamps) (times []time.Time, why error) {
	why = errors.New("its log entry has no promise, and the bundle no timestamp")
	if stamps == nil {
		return nil, why
	}
	for i := range stamps.RFC3161 {
		t, err := v.stampedTime(e, stamps.RFC3161[i].SignedTimestamp)
		switch {
		case err == nil:
			times = append(times, t.UTC())
		case i == 0:
			why = err
		}
	}
	slices.SortFunc(times, time.Time.Compare)
	return times, why
}

func (v *sigstoreVerifier) stampedTime(e *entity, token []byte) (time.Time, error) {
	if len(v.material.TimestampingAuthorities()) == 0 { // sigstore-go would wrap the error of none of them, which is nil
		return time.Time{}, errors.New("the trusted root has no timestamp authority")
	}
	if _, err := tokenCertificates(token); err != nil { // what sigstore-go would spend much time on, or take though its hash is weak
		return time.Time{}, fmt.Errorf("the timestamp cannot be read: %w", err)
	}
	proved, failed, err := verify.VerifySignedTimestamp(e.withToken(token), v.material)
	if err = errors.Join(append(failed, err)...); err != nil {
		return time.Time{}, errors.New(quote(err.Error()))
	}
	return proved[0].Time, nil
}

// checkTime wants the certificate and an authority that issued it to be valid at t.
func (v *sigstoreVerifier) checkTime(leaf *x509.Certificate, t time.Time) error {
	if t.Before(leaf.NotBefore) || t.After(leaf.NotAfter) {
		return notValidAt(leaf, t)
	}
	if _, err := verify.VerifyLeafCertificate(t, leaf, v.material); err != nil {
		return fmt.Errorf("the certificate's authority was not valid when the signature was made, at %s", stamp(t))
	}
	return nil
}

// checkLogKeys wants the key of one of the entries' logs to be valid: at t where the entry promises no time. Where it does, that was checked.
// sigstore-go never looks at the validity of a log's key without a promise.
func checkLogKeys(entries []provedEntry, t time.Time) error {
	for _, p := range entries {
		if from, to := p.log.ValidityPeriodStart, p.log.ValidityPeriodEnd; !p.time.IsZero() || !t.Before(from) && (to.IsZero() || !t.After(to)) {
			return nil
		}
	}
	return fmt.Errorf("the transparency log's key was not valid, by the trusted root, when the signature was made, at %s", stamp(t))
}

func notValidAt(leaf *x509.Certificate, t time.Time) error {
	return fmt.Errorf("the certificate, of %s to %s, was not valid when the signature was made, at %s", stamp(leaf.NotBefore), stamp(leaf.NotAfter), stamp(t))
}

// entity shows a bundle to sigstore-go, with one piece of evidence at a time. It is made from what Parse read: sigstore-go never reads the JSON again.
type entity struct {
	verify.BaseSignedEntity
	leaf    *x509.Certificate
	content verify.SignatureContent
	sig     []byte
	entries []*tlog.Entry
	tokens  [][]byte
}

func newEntity(leaf *x509.Certificate, envelope *wireEnvelope) *entity {
	sig := envelope.Signatures[0].Sig
	if envelope.plain {
		return &entity{leaf: leaf, sig: sig, content: sigbundle.NewMessageSignature(envelope.digest(), protocommon.HashAlgorithm_SHA2_256.String(), sig)}
	}
	return &entity{leaf: leaf, sig: sig, content: &sigbundle.Envelope{Envelope: &dsse.Envelope{
		PayloadType: envelope.PayloadType,
		Payload:     string(envelope.Payload.text),
		Signatures:  []dsse.Signature{{Sig: base64.StdEncoding.EncodeToString(sig)}},
	}}}
}

func (e *entity) withEntry(entry *tlog.Entry) *entity {
	one := *e
	one.entries = []*tlog.Entry{entry}
	return &one
}

func (e *entity) withToken(token []byte) *entity {
	one := *e
	one.tokens = [][]byte{token}
	return &one
}

func (e *entity) VerificationContent() (verify.VerificationContent, error) {
	return sigbundle.NewCertificate(e.leaf), nil
}
func (e *entity) SignatureContent() (verify.SignatureContent, error) { return e.content, nil }
func (e *entity) TlogEntries() ([]*tlog.Entry, error)                { return e.entries, nil }
func (e *entity) Timestamps() ([][]byte, error)                      { return e.tokens, nil }

// proto is the entry as sigstore-go takes it, member by member.
func (e *wireLogEntry) proto() *protorekor.TransparencyLogEntry {
	p := &protorekor.TransparencyLogEntry{
		LogIndex:          int64(e.LogIndex),
		IntegratedTime:    int64(e.IntegratedTime),
		CanonicalizedBody: e.CanonicalizedBody,
	}
	if id := e.LogID; id != nil {
		p.LogId = &protocommon.LogId{KeyId: id.KeyID}
	}
	if k := e.KindVersion; k != nil {
		p.KindVersion = &protorekor.KindVersion{Kind: k.Kind, Version: k.Version}
	}
	if s := e.InclusionPromise; s != nil {
		p.InclusionPromise = &protorekor.InclusionPromise{SignedEntryTimestamp: s.SignedEntryTimestamp}
	}
	if i := e.InclusionProof; i != nil {
		p.InclusionProof = &protorekor.InclusionProof{LogIndex: int64(i.LogIndex), RootHash: i.RootHash, TreeSize: int64(i.TreeSize)}
		for _, h := range i.Hashes {
			p.InclusionProof.Hashes = append(p.InclusionProof.Hashes, h)
		}
		if c := i.Checkpoint; c != nil {
			p.InclusionProof.Checkpoint = &protorekor.Checkpoint{Envelope: c.Envelope}
		}
	}
	return p
}
