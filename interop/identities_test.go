package interop

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
)

// Identities as jobs have them: Fulcio reads the tokens of GitHub, GitLab and
// others into the certificate, and the verifier demands what stands there.
func TestAJobSignsAndItsClaimsAreDemanded(t *testing.T) {
	s := startSigstore(t)
	dir := newModel(t, "jobs")
	const (
		githubJob = "https://github.com/acme/models/.github/workflows/release.yml@refs/heads/main"
		gitlabJob = "https://gitlab.com/acme/models//.gitlab-ci.yml@refs/heads/main"
		uri       = "http://127.0.0.1/users/1"
	)
	jobs := []struct {
		issuer, identity string
		claims           map[string]any
		accepted         []string // flags with what is so
		refused          [][]string
	}{
		{"uri", uri, map[string]any{"sub": uri}, nil, [][]string{{"--source-repository", "acme/models"}}},
		{"github", githubJob, map[string]any{
			"sub": "repo:acme/models:ref:refs/heads/main", "job_workflow_ref": "acme/models/.github/workflows/release.yml@refs/heads/main",
			"job_workflow_sha": "abc", "sha": "def", "event_name": "push", "repository": "acme/models", "workflow": "release", "ref": "refs/heads/main",
			"runner_environment": "github-hosted", "repository_id": "1", "repository_owner": "acme", "repository_owner_id": "2",
			"repository_visibility": "public", "workflow_ref": "acme/models/.github/workflows/release.yml@refs/heads/main", "workflow_sha": "abc",
			"run_id": "3", "run_attempt": "1"},
			[]string{"--source-repository", "acme/models", "--source-ref", "refs/heads/main", "--build-trigger", "push", "--build-signer", githubJob},
			[][]string{{"--source-repository", "eve/models"}, {"--source-ref", "refs/heads/other"}, {"--build-trigger", "pull_request"}, {"--build-signer", githubJob + "x"}}},
		{"gitlab", gitlabJob, map[string]any{
			"sub": "project_path:acme/models:ref_type:branch:ref:main", "project_path": "acme/models", "project_id": "1", "pipeline_source": "push",
			"pipeline_id": "2", "ci_config_ref_uri": "gitlab.com/acme/models//.gitlab-ci.yml@refs/heads/main", "ci_config_sha": "abc", "job_id": "3",
			"ref": "main", "ref_type": "branch", "namespace_id": "4", "namespace_path": "acme", "runner_id": 5, "runner_environment": "gitlab-hosted",
			"sha": "def", "project_visibility": "public"},
			[]string{"--source-repository", "https://gitlab.com/acme/models", "--build-trigger", "push"},
			[][]string{{"--source-repository", "https://gitlab.com/eve/models"}, {"--build-trigger", "web"}}},
	}
	for _, job := range jobs {
		t.Run(job.issuer, func(t *testing.T) {
			signature := filepath.Join(t.TempDir(), "model.sig")
			s.signs(t, s.token(t, job.issuer, job.claims), dir, "--signature", signature).want(t, 0)
			verify := []string{"verify", "sigstore", dir, "--signature", signature, "--trusted-root", s.trustedRoot,
				"--identity", job.identity, "--identity-provider", s.issuer(job.issuer)}
			run(t, 0, append(slices.Clone(verify), job.accepted...)...)
			for _, flags := range job.refused {
				run(t, 1, append(slices.Clone(verify), flags...)...)
			}
		})
	}
}

// A bundle without its log entry is refused where it is attached too, and does
// not stand in the way of a whole one.
func TestAnAttachedBundleWithoutItsLogEntryDoesNotCount(t *testing.T) {
	s := startSigstore(t)
	r := startDistribution(t, "")
	ref, _ := push(t, r, "acme/attached", "attached")
	file := filepath.Join(t.TempDir(), "model.sig")
	s.signs(t, s.mail(t, who), ref, "--no-attach", "--signature", file).want(t, 0)
	s.verifies(ref).want(t, 1) // nothing is attached
	s.verifies(ref, "--signature", file).want(t, 0)

	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	b := decode[map[string]any](t, data)
	delete(b["verificationMaterial"].(map[string]any), "tlogEntries")
	repo := repository(t, r, "acme/attached")
	_, digest, _ := strings.Cut(ref, "@")
	subject, err := repo.Resolve(t.Context(), digest)
	if err != nil {
		t.Fatal(err)
	}
	const bundleType = "application/vnd.dev.sigstore.bundle.v0.3+json"
	layer, err := oras.PushBytes(t.Context(), repo, bundleType, mustJSON(t, b))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := oras.PackManifest(t.Context(), repo, oras.PackManifestVersion1_1, bundleType, oras.PackManifestOptions{
		Subject: &subject, Layers: []ocispec.Descriptor{layer}}); err != nil {
		t.Fatal(err)
	}
	if got := s.verifies(ref).want(t, 1); !strings.Contains(got.stdout+got.stderr, "log") {
		t.Errorf("the answer does not name the log:\n%s%s", got.stdout, got.stderr)
	}
	s.signs(t, s.mail(t, who), ref).want(t, 0)
	s.verifies(ref).want(t, 0)
}
