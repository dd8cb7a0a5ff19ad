package bundle

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/go-openapi/runtime"
	httptransport "github.com/go-openapi/runtime/client"
	"github.com/go-openapi/strfmt"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	tiles "github.com/sigstore/rekor-tiles/v2/pkg/generated/protobuf"
	"github.com/sigstore/rekor/pkg/generated/client/entries"
	"github.com/sigstore/rekor/pkg/generated/models"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/sign"
	"google.golang.org/protobuf/encoding/protojson"
)

const (
	// maxAnswer is the largest answer of a service that is read, in bytes. Rekor v1 repeats an entry's body, of 2 KiB, and the proof; Fulcio sends three certificates.
	maxAnswer = 1 << 20
	// maxRefusal is how much of an answer is read that is no yes, in bytes: what it says is one line of JSON.
	maxRefusal = 4 << 10
)

// A caller has the requests of Sigstore's clients done by the signer's own: with its context, and so that an answer which says no is an error that tells why.
type caller struct {
	ctx    context.Context
	client *http.Client
	also   int // a status that is not a yes, and that the client of the service understands; 0: none
}

func (c *caller) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := c.client.Do(req.WithContext(c.ctx))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode/100 == 2 || resp.StatusCode == c.also {
		resp.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(resp.Body, maxAnswer), resp.Body}
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, &refusal{resp.StatusCode, reason(resp.Body)}
}

// A refusal is an answer that says no.
type refusal struct {
	status int
	reason string // quoted; "" if it gave none
}

func (r *refusal) Error() string {
	if r.reason == "" {
		return fmt.Sprintf("status %d", r.status)
	}
	return fmt.Sprintf("status %d: %s", r.status, r.reason)
}

// statusGivenUp is what a log answers whose batch of entries another client left (gRPC's CANCELED, over HTTP).
const statusGivenUp = 499

// isAgain reports whether a log refused an entry that it would take with another signature: it may hold this one already, from an answer that was lost.
func isAgain(err error) bool {
	r, ok := errors.AsType[*refusal](err)
	return ok && (r.status == statusGivenUp || r.status == http.StatusConflict)
}

// reason reads why: all three services answer {"code":…,"message":…}.
func reason(body io.Reader) string {
	data, err := io.ReadAll(io.LimitReader(body, maxRefusal))
	if err != nil {
		return ""
	}
	var answer struct{ Message string }
	if json.Unmarshal(data, &answer) == nil && answer.Message != "" {
		return quote(answer.Message)
	}
	if data = bytes.TrimSpace(data); len(data) == 0 {
		return ""
	}
	return quote(string(data))
}

// serviceError is what a person is told of a client's error: without the address, which stands before it, and with nothing foreign unquoted.
func serviceError(err error) error {
	if r, ok := errors.AsType[*refusal](err); ok {
		return r
	}
	e, ok := errors.AsType[*url.Error](err)
	if !ok {
		return errors.New(foreign(err))
	}
	for ok { // one of each client
		err = e.Err
		e, ok = errors.AsType[*url.Error](err)
	}
	return err
}

// newRekor makes sigstore-go's client of a log. It would bring an HTTP client of its own, which knows neither our limits nor the caller's.
func newRekor(ctx context.Context, client *http.Client, service root.Service) (*sign.Rekor, error) {
	base, err := url.Parse(service.URL)
	if err != nil {
		return nil, err
	}
	options := &sign.RekorOptions{BaseURL: service.URL, Version: service.MajorAPIVersion, Timeout: -1}
	if service.MajorAPIVersion == 2 {
		options.ClientV2 = &rekorV2{client: &http.Client{Transport: &caller{ctx: ctx, client: client}}, base: base}
		return sign.NewRekor(options), nil
	}
	// 409: the very entry is there already. The client looks it up.
	asking := &http.Client{Transport: &caller{ctx: ctx, client: client, also: http.StatusConflict}}
	transport := httptransport.NewWithClient(base.Host, base.Path, []string{base.Scheme}, asking)
	transport.Consumers["application/json"] = runtime.JSONConsumer()
	transport.Producers["application/json"] = runtime.JSONProducer()
	options.Client = &rekorV1{entries.New(transport, strfmt.Default)}
	return sign.NewRekor(options), nil
}

// rekorV1 sees to it that what a log of Rekor v1 answers has all that sigstore-go takes for granted.
type rekorV1 struct{ client sign.RekorClient }

func (r *rekorV1) CreateLogEntry(params *entries.CreateLogEntryParams, opts ...entries.ClientOption) (*entries.CreateLogEntryCreated, error) {
	created, err := r.client.CreateLogEntry(params, opts...)
	if err != nil {
		return nil, err
	}
	return created, checkEntryV1(created.Payload[created.ETag])
}

func (r *rekorV1) GetLogEntryByUUID(params *entries.GetLogEntryByUUIDParams, opts ...entries.ClientOption) (*entries.GetLogEntryByUUIDOK, error) {
	found, err := r.client.GetLogEntryByUUID(params, opts...)
	if err != nil {
		return nil, err
	}
	if len(found.Payload) == 0 {
		return nil, errNoEntry
	}
	for _, e := range found.Payload {
		if err := checkEntryV1(e); err != nil {
			return nil, err
		}
	}
	return found, nil
}

// errNoEntry is returned for an answer that says yes and has nothing in it.
var errNoEntry = errors.New("the answer is no entry with its inclusion proof")

func checkEntryV1(e models.LogEntryAnon) error {
	if e.Body == nil || e.Verification == nil || e.Verification.InclusionProof == nil || e.Validate(strfmt.Default) != nil {
		return errNoEntry
	}
	return nil
}

// rekorV2 writes to a log of Rekor v2 (rekor-tiles, POST /api/v2/log/entries).
type rekorV2 struct {
	client *http.Client
	base   *url.URL
}

// Add is how sigstore-go asks for an entry.
func (r *rekorV2) Add(ctx context.Context, entry any) (*protorekor.TransparencyLogEntry, error) {
	record, ok := entry.(*tiles.HashedRekordRequestV002)
	if !ok {
		return nil, fmt.Errorf("an entry of type %T", entry)
	}
	body, err := protojson.Marshal(&tiles.CreateEntryRequest{Spec: &tiles.CreateEntryRequest_HashedRekordRequestV002{HashedRekordRequestV002: record}})
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.base.JoinPath("/api/v2/log/entries").String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := r.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	added := new(protorekor.TransparencyLogEntry)
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(data, added); err != nil {
		return nil, fmt.Errorf("the answer is no entry: %s", protoText(err))
	}
	return added, nil
}

// certificatePEM is a certificate as Rekor's clients take it.
func certificatePEM(cert *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: pemCertificate, Bytes: cert.Raw})
}
