package fakesigstore

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/cyberphone/json-canonicalization/go/src/webpki.org/jsoncanonicalizer"
	"github.com/digitorus/timestamp"
	"github.com/go-openapi/runtime"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	rekortiles "github.com/sigstore/rekor-tiles/v2/pkg/generated/protobuf"
	"github.com/sigstore/rekor-tiles/v2/pkg/types/hashedrekord"
	"github.com/sigstore/rekor/pkg/generated/models"
	"github.com/sigstore/rekor/pkg/types"
	dsse "github.com/sigstore/rekor/pkg/types/dsse/v0.0.1"
	rekord "github.com/sigstore/rekor/pkg/types/hashedrekord"
	rekordV1 "github.com/sigstore/rekor/pkg/types/hashedrekord/v0.0.1"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/transparency-dev/merkle/rfc6962"
	"google.golang.org/protobuf/encoding/protojson"
)

// The services of a Sigstore, as [Servers.Break] and [Servers.Requests] name them.
const (
	Fulcio = "fulcio"
	Rekor  = "rekor"
	TSA    = "tsa"
)

// maxRequest is the largest request in bytes that a server reads. Rekor's own limit is 4 MiB.
const maxRequest = 4 << 20

// Servers are a Sigstore on loopback.
type Servers struct {
	Fulcio, Rekor string // base URLs. Rekor speaks both of its APIs.
	TSA           string // the whole URL of the timestamp authority

	s        *Sigstore
	issuers  []*Issuer
	mu       sync.Mutex
	handlers map[string]http.Handler
	requests map[string]int
}

// Serve starts the servers, which end with the test. Fulcio takes tokens of these issuers. The settings of s that matter to a server are read at each request.
func (s *Sigstore) Serve(issuers ...*Issuer) *Servers {
	v := &Servers{s: s, issuers: issuers, handlers: map[string]http.Handler{}, requests: map[string]int{}}
	start := func(service string) string {
		v.handlers[service] = s.handler(service, issuers)
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			v.mu.Lock()
			v.requests[service]++
			h := v.handlers[service]
			v.mu.Unlock()
			h.ServeHTTP(w, r)
		}))
		s.t.Cleanup(func() {
			server.CloseClientConnections() // one may hang
			server.Close()
		})
		return server.URL
	}
	v.Fulcio, v.Rekor, v.TSA = start(Fulcio), start(Rekor), start(TSA)+"/api/v1/timestamp"
	s.servers = v
	return v
}

// Requests is how many requests a service got.
func (v *Servers) Requests(service string) int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.requests[service]
}

// Break lets a service answer in another way from now on: with is given the handler of the honest one. A nil with repairs it.
func (v *Servers) Break(service string, with func(http.Handler) http.Handler) {
	honest := v.s.handler(service, v.issuers)
	v.mu.Lock()
	defer v.mu.Unlock()
	v.handlers[service] = honest
	if with != nil {
		v.handlers[service] = with(honest)
	}
}

// Status answers every request with an error.
func Status(code int) func(http.Handler) http.Handler {
	return func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { status(w, code, 13, "broken by a test") })
	}
}

// Hang answers nothing until the client goes away.
func Hang(http.Handler) http.Handler {
	return http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // else nobody notices that the client left
		<-r.Context().Done()
	})
}

// Drop closes the connection.
func Drop(http.Handler) http.Handler {
	return http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
}

// Truncate answers with the first half of the body, and closes the connection.
func Truncate(honest http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := httptest.NewRecorder()
		honest.ServeHTTP(answer, r)
		copyAnswer(w, answer, answer.Body.Len()/2)
	})
}

// Replay gives everybody the first answer.
func Replay(honest http.Handler) http.Handler {
	var once sync.Once
	answer := httptest.NewRecorder()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		once.Do(func() { honest.ServeHTTP(answer, r) })
		copyAnswer(w, answer, answer.Body.Len())
	})
}

func copyAnswer(w http.ResponseWriter, answer *httptest.ResponseRecorder, n int) {
	for name, values := range answer.Header() {
		w.Header()[name] = values
	}
	w.Header().Set("Content-Length", strconv.Itoa(answer.Body.Len()))
	w.WriteHeader(answer.Code)
	_, _ = w.Write(answer.Body.Bytes()[:n]) // the client went away
}

// As lets s answer in place of another Sigstore: a foreign one, or an edited copy.
func (s *Sigstore) As(service string, issuers ...*Issuer) func(http.Handler) http.Handler {
	return func(http.Handler) http.Handler { return s.handler(service, issuers) }
}

// SigningConfig is the JSON of where to sign: the log by Rekor v2, or v1 if s says so, and the timestamp authority. An edit changes its members; nil: none.
func (v *Servers) SigningConfig(edit func(config Object)) []byte {
	return JSON(v.signingConfig(edit))
}

func (v *Servers) signingConfig(edit func(config Object)) Object {
	service := func(url string, version int) []Object {
		return []Object{{"url": url, "majorApiVersion": version, "validFor": Object{"start": begin}, "operator": "test"}}
	}
	rekor := 2
	if v.s.RekorV1 {
		rekor = 1
	}
	config := Object{
		"mediaType":       configType,
		"caUrls":          service(v.Fulcio, 1),
		"rekorTlogUrls":   service(v.Rekor, rekor),
		"rekorTlogConfig": Object{"selector": "ANY"},
		"tsaUrls":         service(v.TSA, 1),
		"tsaConfig":       Object{"selector": "ANY"},
	}
	if len(v.issuers) > 0 {
		config["oidcUrls"] = service(v.issuers[0].URL, 1)
	}
	if edit != nil {
		edit(config)
	}
	return config
}

// TrustConfig is the JSON of a ClientTrustConfig: the trusted root and the signing config.
func (v *Servers) TrustConfig() []byte {
	return JSON(Object{"mediaType": trustConfigType, "trustedRoot": v.s.trustedRoot(nil), "signingConfig": v.signingConfig(nil)})
}

func (s *Sigstore) handler(service string, issuers []*Issuer) http.Handler {
	mux := http.NewServeMux()
	switch service {
	case Fulcio:
		mux.HandleFunc("POST /api/v2/signingCert", func(w http.ResponseWriter, r *http.Request) { s.signingCert(w, r, issuers) })
	case Rekor:
		mux.HandleFunc("POST /api/v2/log/entries", s.addV2)
		mux.HandleFunc("POST /api/v1/log/entries", s.addV1)
		mux.HandleFunc("GET /api/v1/log/entries/{uuid}", s.entryV1)
	case TSA:
		mux.HandleFunc("POST /api/v1/timestamp", s.timestamp)
	default:
		panic("no such service: " + service)
	}
	return mux
}

// status answers an error as grpc-gateway does; number is gRPC's.
func status(w http.ResponseWriter, code, number int, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = w.Write(JSON(Object{"code": number, "message": message, "details": []any{}})) // the client went away
}

func created(w http.ResponseWriter, contentType string, body []byte) {
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(http.StatusCreated)
	_, _ = w.Write(body) // the client went away
}

// signingCert is Fulcio's API v2 (fulcio.proto, CreateSigningCertificate).
func (s *Sigstore) signingCert(w http.ResponseWriter, r *http.Request, issuers []*Issuer) {
	var request struct {
		Credentials struct {
			Token string `json:"oidcIdentityToken"`
		} `json:"credentials"`
		PublicKeyRequest struct {
			PublicKey struct {
				Algorithm string `json:"algorithm"`
				Content   string `json:"content"`
			} `json:"publicKey"`
			Proof []byte `json:"proofOfPossession"`
		} `json:"publicKeyRequest"`
	}
	if err := json.NewDecoder(io.LimitReader(r.Body, maxRequest)).Decode(&request); err != nil {
		status(w, http.StatusBadRequest, 3, err.Error())
		return
	}
	token := request.Credentials.Token
	if bearer, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
		token = bearer
	}
	who, err := authenticate(r.Context(), token, issuers)
	if err != nil {
		status(w, http.StatusUnauthorized, 16, "There was an error processing the identity token: "+err.Error())
		return
	}
	public, err := cryptoutils.UnmarshalPEMToPublicKey([]byte(request.PublicKeyRequest.PublicKey.Content))
	if err != nil {
		status(w, http.StatusBadRequest, 3, "The public key supplied in the request could not be parsed")
		return
	}
	verifier, err := signature.LoadDefaultVerifier(public)
	if err == nil {
		err = verifier.VerifySignature(bytes.NewReader(request.PublicKeyRequest.Proof), strings.NewReader(who.subject))
	}
	if err != nil {
		status(w, http.StatusBadRequest, 3, "The signature supplied in the request could not be verified")
		return
	}
	edit, ct := s.Template, s
	if edit == nil {
		edit = func(*x509.Certificate) {}
	}
	if s.NoCT || s.NoSCT {
		ct = nil
	}
	leaf, err := s.leaf(who.template, time.Now(), public, edit, ct)
	if err != nil {
		status(w, http.StatusBadRequest, 3, err.Error())
		return
	}
	var chain []string
	for _, c := range []*x509.Certificate{leaf, s.Intermediate, s.Root} {
		chain = append(chain, string(CertificatePEM(c.Raw)))
	}
	kind := "signedCertificateEmbeddedSct"
	if s.NoCT {
		kind = "signedCertificateDetachedSct"
	}
	answer(w, Object{kind: Object{"chain": Object{"certificates": chain}}})
}

// A principal is whom a token names: what the proof of possession signs, and what the certificate says.
type principal struct {
	subject  string
	template *x509.Certificate
}

// authenticate checks a token with the keys that its issuer publishes, if it is one of issuers.
func authenticate(ctx context.Context, token string, issuers []*Issuer) (*principal, error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return nil, errors.New("it is no JWT")
	}
	data, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return nil, err
	}
	var claims struct {
		Issuer         string `json:"iss"`
		Subject        string `json:"sub"`
		Email          string `json:"email"`
		EmailVerified  bool   `json:"email_verified"`
		JobWorkflowRef string `json:"job_workflow_ref"` // GitHub
		Repository     string `json:"repository"`
		Ref            string `json:"ref"`
		SHA            string `json:"sha"`
		Event          string `json:"event_name"`
		ConfigRef      string `json:"ci_config_ref_uri"` // GitLab
		ProjectPath    string `json:"project_path"`
		RefPath        string `json:"ref_path"`
		PipelineSource string `json:"pipeline_source"`
		Organization   string `json:"organization_slug"` // Buildkite
		Pipeline       string `json:"pipeline_slug"`
	}
	if err := json.Unmarshal(data, &claims); err != nil {
		return nil, err
	}
	known := false
	for _, i := range issuers {
		known = known || i.URL == claims.Issuer
	}
	if !known {
		return nil, fmt.Errorf("the issuer %q is not supported", claims.Issuer)
	}
	provider, err := oidc.NewProvider(ctx, claims.Issuer)
	if err != nil {
		return nil, err
	}
	if _, err := provider.Verifier(&oidc.Config{ClientID: "sigstore"}).Verify(ctx, token); err != nil {
		return nil, err
	}
	who := &principal{subject: claims.Subject, template: &x509.Certificate{}}
	say := func(number int, value string) {
		if value != "" {
			who.template.ExtraExtensions = append(who.template.ExtraExtensions, extension(number, value))
		}
	}
	say(8, claims.Issuer)
	name := claims.Subject
	switch {
	case claims.Email != "":
		if !claims.EmailVerified {
			return nil, errors.New("the e-mail address is not verified")
		}
		who.subject = claims.Email
		who.template.EmailAddresses = []string{claims.Email}
		return who, nil
	case claims.JobWorkflowRef != "":
		name = "https://github.com/" + claims.JobWorkflowRef
		say(9, name) // build signer URI
		say(12, "https://github.com/"+claims.Repository)
		say(13, claims.SHA)
		say(14, claims.Ref)
		say(20, claims.Event)
	case claims.ConfigRef != "":
		name = "https://" + claims.ConfigRef
		say(9, name)
		say(12, "https://gitlab.com/"+claims.ProjectPath)
		say(13, claims.SHA)
		say(14, claims.RefPath)
		say(20, claims.PipelineSource)
	case claims.Organization != "":
		name = "https://buildkite.com/" + claims.Organization + "/" + claims.Pipeline
	}
	u, err := url.Parse(name)
	if err != nil || u.Scheme == "" {
		return nil, fmt.Errorf("the subject %q is no URI", name)
	}
	who.template.URIs = []*url.URL{u}
	return who, nil
}

// addV2 is the API of Rekor v2 (rekor_service.proto, CreateEntry).
func (s *Sigstore) addV2(w http.ResponseWriter, r *http.Request) {
	var request rekortiles.CreateEntryRequest
	data, err := io.ReadAll(io.LimitReader(r.Body, maxRequest))
	if err == nil {
		err = protojson.Unmarshal(data, &request)
	}
	if err != nil {
		status(w, http.StatusBadRequest, 3, err.Error())
		return
	}
	if request.GetHashedRekordRequestV002() == nil {
		status(w, http.StatusBadRequest, 3, "invalid type, must be hashedrekord")
		return
	}
	algorithms := must(signature.NewAlgorithmRegistryConfig([]protocommon.PublicKeyDetails{
		protocommon.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256, protocommon.PublicKeyDetails_PKIX_ECDSA_P384_SHA_384,
	}))
	entry, err := hashedrekord.ToLogEntry(request.GetHashedRekordRequestV002(), algorithms)
	if err != nil {
		status(w, http.StatusBadRequest, 3, "invalid hashedrekord request")
		return
	}
	body := must(jsoncanonicalizer.Transform(must(protojson.Marshal(entry))))
	e, old := s.logOnce(string(body), func() *Entry { return s.Log(body, entry.Kind, entry.ApiVersion, host(r), time.Time{}) })
	if old {
		w.Header().Set("X-Log-Index", e.LogIndex)
		status(w, http.StatusConflict, 6, "an equivalent entry already exists in the transparency log with index "+e.LogIndex)
		return
	}
	created(w, "application/json", JSON(e))
}

// host is how clients know this server: the same for who answers in the place of another.
func host(r *http.Request) string {
	name, _, err := net.SplitHostPort(r.Host)
	if err != nil {
		return r.Host
	}
	return name
}

// logOnce reports whether there was such an entry; if not it makes it.
func (s *Sigstore) logOnce(name string, add func() *Entry) (e *Entry, old bool) {
	s.log.once.Lock()
	defer s.log.once.Unlock()
	if e, old = s.log.entries[name]; !old {
		e = add()
		s.log.entries[name] = e
	}
	return e, old
}

// addV1 is the API of Rekor v1 (openapi.yaml of Rekor, createLogEntry), for entries of type dsse.
func (s *Sigstore) addV1(w http.ResponseWriter, r *http.Request) {
	proposed, err := models.UnmarshalProposedEntry(io.LimitReader(r.Body, maxRequest), runtime.JSONConsumer())
	var entry types.EntryImpl
	if err == nil {
		entry = dsse.NewEntry()
		if proposed.Kind() == rekord.KIND {
			entry = rekordV1.NewEntry()
		}
		err = entry.Unmarshal(proposed) // verifies the signatures
	}
	var body []byte
	if err == nil {
		body, err = types.CanonicalizeEntry(r.Context(), entry)
	}
	if err != nil {
		status(w, http.StatusBadRequest, http.StatusBadRequest, "error processing entry: "+err.Error())
		return
	}
	const tree = "108e9186e8c5677a" // in hexadecimal, the number that Tree ends with
	uuid := tree + hex.EncodeToString(rfc6962.DefaultHasher.HashLeaf(body))
	e, old := s.logOnce(uuid, func() *Entry { return s.Log(body, proposed.Kind(), "0.0.1", host(r)+treeID, time.Now()) })
	w.Header().Set("Location", "/api/v1/log/entries/"+uuid)
	if old {
		status(w, http.StatusConflict, http.StatusConflict, "an equivalent entry already exists in the transparency log with UUID "+uuid)
		return
	}
	w.Header().Set("ETag", uuid)
	created(w, "application/json", JSON(Object{uuid: e.v1()}))
}

func (s *Sigstore) entryV1(w http.ResponseWriter, r *http.Request) {
	s.log.once.Lock()
	e, ok := s.log.entries[r.PathValue("uuid")]
	s.log.once.Unlock()
	if !ok {
		status(w, http.StatusNotFound, http.StatusNotFound, "no such entry")
		return
	}
	answer(w, Object{r.PathValue("uuid"): e.v1()})
}

// v1 is an entry as Rekor v1 answers it (LogEntry): the same, with numbers and hexadecimal.
func (e *Entry) v1() Object {
	number := func(text string) int64 { return must(strconv.ParseInt(text, 10, 64)) }
	var hashes []string
	for _, h := range e.Proof.Hashes {
		hashes = append(hashes, hex.EncodeToString(h))
	}
	return Object{
		"body": e.Body, "integratedTime": number(e.IntegratedTime), "logIndex": number(e.LogIndex), "logID": hex.EncodeToString(e.LogID["keyId"].([]byte)),
		"verification": Object{
			"inclusionProof": Object{
				"checkpoint": e.Proof.Checkpoint.Envelope, "hashes": hashes, "logIndex": number(e.Proof.LogIndex),
				"rootHash": hex.EncodeToString(e.Proof.RootHash), "treeSize": number(e.Proof.TreeSize),
			},
			"signedEntryTimestamp": e.Promise.SET,
		},
	}
}

// timestamp answers a query of RFC 3161, sent as its §3.4 says.
func (s *Sigstore) timestamp(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Content-Type") != "application/timestamp-query" {
		http.Error(w, "unsupported media type", http.StatusUnsupportedMediaType)
		return
	}
	data, err := io.ReadAll(io.LimitReader(r.Body, maxRequest))
	var token []byte
	if err == nil {
		var query *timestamp.Request
		if query, err = timestamp.ParseRequest(data); err == nil {
			token, err = s.stamp(query, time.Now())
		}
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	created(w, "application/timestamp-reply", token)
}
