package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"slices"
	"strings"
)

// Variables by which jobs and machines are known.
const (
	githubURL        = "ACTIONS_ID_TOKEN_REQUEST_URL"
	githubToken      = "ACTIONS_ID_TOKEN_REQUEST_TOKEN"
	buildkiteToken   = "BUILDKITE_AGENT_ACCESS_TOKEN"
	buildkiteURL     = "BUILDKITE_AGENT_ENDPOINT"
	buildkiteJob     = "BUILDKITE_JOB_ID"
	googleAccount    = "GOOGLE_SERVICE_ACCOUNT_NAME"
	metadataVariable = "GCE_METADATA_HOST"
)

// githubHint is for jobs that were not allowed to have an identity.
const githubHint = "a GitHub Actions job has an identity with permissions: id-token: write"

// errNoAmbient: neither the job nor the machine has an identity.
var errNoAmbient = errors.New("no ambient credentials: looked for GitHub Actions (" + githubURL + "), Buildkite (" + buildkiteToken +
	"), Kubernetes (/var/run/sigstore/cosign/oidc-token), Google Cloud (" + googleAccount + ", " + metadataVariable + ", a machine of Google's)")

// An ambientSource gives tokens of the job or machine.
type ambientSource struct {
	name string
	get  func(context.Context) (string, error)
}

// ambient finds the identity of the job or machine, the most specific first: a
// job runs on a machine, and a pod on a node. The first that is there counts,
// whether it works or not. Looking contacts nobody: what is not Google's is not
// asked whether it is. Without any: errNoAmbient. Tokens are for audience.
func (s *surroundings) ambient(audience string) (*ambientSource, error) {
	if os.Getenv(githubURL) != "" || os.Getenv(githubToken) != "" {
		return s.github(audience)
	}
	if os.Getenv(buildkiteToken) != "" {
		return s.buildkite(audience)
	}
	if _, err := os.Stat(s.kubernetes); err == nil {
		return &ambientSource{"Kubernetes (" + s.kubernetes + ")", s.projected}, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("token of Kubernetes: %w", err)
	}
	if account := os.Getenv(googleAccount); account != "" {
		return &ambientSource{"Google Cloud, as " + account, func(ctx context.Context) (string, error) {
			return s.impersonated(ctx, account, audience)
		}}, nil
	}
	if os.Getenv(metadataVariable) != "" || s.isGoogles() {
		return &ambientSource{"Google Cloud", func(ctx context.Context) (string, error) {
			query := url.Values{"audience": {audience}, "format": {"full"}} // full: with the e-mail address
			token, err := s.fromMetadata(ctx, "identity?"+query.Encode())
			return strings.TrimSpace(string(token)), err
		}}, nil
	}
	return nil, errNoAmbient
}

// github asks the runner's service.
// https://docs.github.com/actions/reference/security/oidc
func (s *surroundings) github(audience string) (*ambientSource, error) {
	for _, name := range []string{githubURL, githubToken} {
		if os.Getenv(name) == "" {
			return nil, &hinted{fmt.Errorf("GitHub Actions: %s is not set", name), githubHint}
		}
	}
	u, err := serviceURL(githubURL, os.Getenv(githubURL))
	if err != nil {
		return nil, fmt.Errorf("GitHub Actions: %w", err)
	}
	query := u.Query() // it has some already
	query.Set("audience", audience)
	u.RawQuery = query.Encode()
	return &ambientSource{"GitHub Actions", func(ctx context.Context) (string, error) {
		bearer := os.Getenv(githubToken)
		return s.field(ctx, s.client, "value", http.MethodGet, u.String(), nil, http.Header{"Authorization": {"Bearer " + bearer}}, bearer)
	}}, nil
}

// buildkite asks the agent's API.
// https://buildkite.com/docs/pipelines/security/oidc
func (s *surroundings) buildkite(audience string) (*ambientSource, error) {
	job := os.Getenv(buildkiteJob)
	if job == "" {
		return nil, fmt.Errorf("token of Buildkite: %s is not set", buildkiteJob)
	}
	endpoint := os.Getenv(buildkiteURL)
	if endpoint == "" {
		endpoint = "https://agent.buildkite.com/v3"
	}
	u, err := serviceURL(buildkiteURL, endpoint)
	if err != nil {
		return nil, fmt.Errorf("token of Buildkite: %w", err)
	}
	u = u.JoinPath("jobs", url.PathEscape(job), "oidc", "tokens")
	return &ambientSource{"Buildkite", func(ctx context.Context) (string, error) {
		secret := os.Getenv(buildkiteToken)
		body := map[string]any{"audience": audience}
		return s.field(ctx, s.client, "token", http.MethodPost, u.String(), body, http.Header{"Authorization": {"Token " + secret}}, secret)
	}}, nil
}

// projected reads the token that the kubelet keeps fresh. Its audience is what
// the pod says.
func (s *surroundings) projected(context.Context) (string, error) {
	data, err := readSecret(s.kubernetes)
	return strings.TrimSpace(string(data)), err
}

// isGoogles reports whether this is a machine of Google Cloud, by what its
// firmware says.
func (s *surroundings) isGoogles() bool {
	if runtime.GOOS != "linux" {
		return false
	}
	name, err := readSmall(s.product, 4<<10) // one line
	return err == nil && slices.Contains([]string{"Google", "Google Compute Engine"}, strings.TrimSpace(string(name)))
}

// fromMetadata asks the metadata server about the machine's account. There is
// no secret in it: whoever reaches the server may ask.
// https://cloud.google.com/compute/docs/metadata/querying-metadata
func (s *surroundings) fromMetadata(ctx context.Context, what string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.metadata+"/computeMetadata/v1/instance/service-accounts/default/"+what, nil)
	if err != nil {
		return nil, fmt.Errorf("%s is no host", metadataVariable)
	}
	req.Header.Set("Metadata-Flavor", "Google")
	answer, header, err := fetch(s.direct, req)
	if err != nil {
		return nil, fmt.Errorf("metadata server: %w", err)
	}
	if header.Get("Metadata-Flavor") != "Google" {
		return nil, errors.New("metadata server: the answer is not one of Google's: it has no Metadata-Flavor")
	}
	return answer, nil
}

// impersonated gets a token of another account, which the machine's own may act
// for.
// https://cloud.google.com/iam/docs/reference/credentials/rest/v1/projects.serviceAccounts/generateIdToken
func (s *surroundings) impersonated(ctx context.Context, account, audience string) (string, error) {
	answer, err := s.fromMetadata(ctx, "token")
	if err != nil {
		return "", err
	}
	var own struct {
		AccessToken string `json:"access_token"`
	}
	if err := json.Unmarshal(answer, &own); err != nil || own.AccessToken == "" {
		return "", errors.New("metadata server: the answer has no access_token")
	}
	address := s.iam + "/v1/projects/-/serviceAccounts/" + url.PathEscape(account) + ":generateIdToken"
	body := map[string]any{"audience": audience, "includeEmail": true}
	return s.field(ctx, s.client, "token", http.MethodPost, address, body, http.Header{"Authorization": {"Bearer " + own.AccessToken}}, own.AccessToken)
}

// field does a request and returns the one field of the answer, in JSON, that is
// a token. body nil: none. secret is what header gives away.
func (s *surroundings) field(ctx context.Context, client *http.Client, name, method, address string, body map[string]any, header http.Header, secret string) (string, error) {
	var content io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return "", err
		}
		content = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, address, content)
	if err != nil {
		return "", errors.New("make the request: the address is no URL")
	}
	req.Header = header
	req.Header.Set("Accept", "application/json")
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	answer, _, err := fetch(client, req, secret)
	if err != nil {
		return "", err
	}
	// What is wrong with it is not said: it may hold the token.
	var fields map[string]json.RawMessage
	var token string
	if json.Unmarshal(answer, &fields) != nil || json.Unmarshal(fields[name], &token) != nil || token == "" {
		return "", fmt.Errorf("the answer has no %s", name)
	}
	return token, nil
}

// fetch does a request that must succeed. Its errors repeat neither the address
// nor the secrets, not even if the server does.
func fetch(client *http.Client, req *http.Request, secrets ...string) ([]byte, http.Header, error) {
	resp, err := client.Do(req)
	if err != nil {
		return nil, nil, unaddressed(req.Context(), err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body) // bounded by the client
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusCreated {
		text := strings.TrimSpace(string(answer))
		for _, secret := range secrets {
			text = strings.ReplaceAll(text, secret, "…")
		}
		return nil, nil, fmt.Errorf("status %d, not %d: %s", resp.StatusCode, http.StatusOK, quote(text))
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read the answer: %w", unaddressed(req.Context(), err))
	}
	return answer, resp.Header, nil
}

// unaddressed is an HTTP client's error without the address that it repeats, or
// why ctx has ended.
func unaddressed(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}

// serviceURL reads an address from the variable name. It is not repeated: some
// hold a secret.
func serviceURL(name, address string) (*url.URL, error) {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil {
		return nil, fmt.Errorf("%s is no http or https URL", name)
	}
	return u, nil
}
