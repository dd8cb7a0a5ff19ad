package bundle_test

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/modelsig/modelsig/bundle"
	"github.com/modelsig/modelsig/e2e/fakesigstore"
)

// serviceIn is a service of the config that is being edited.
func serviceIn(config object, kind string) object {
	return config[kind].([]object)[0]
}

// A config that cannot sign is an error before anything is asked of anybody: when it is read, or when a signer is made of it.
func TestSigningConfigsThatCannotSign(t *testing.T) {
	ended := func(kind string) func(config object) {
		return func(config object) {
			serviceIn(config, kind)["validFor"] = object{"start": "2024-01-01T00:00:00Z", "end": "2024-02-01T00:00:00Z"}
		}
	}
	coming := func(kind string) func(config object) {
		return func(config object) {
			serviceIn(config, kind)["validFor"] = object{"start": time.Now().Add(time.Hour).UTC().Format(time.RFC3339)}
		}
	}
	future := func(kind string) func(config object) {
		return func(config object) { serviceIn(config, kind)["majorApiVersion"] = 3 }
	}
	at := func(kind, url string) func(config object) {
		return func(config object) { serviceIn(config, kind)["url"] = url }
	}
	without := func(names ...string) func(config object) {
		return func(config object) {
			for _, name := range names {
				delete(config, name)
			}
		}
	}
	many := func(kind, selection string) func(config object) {
		return func(config object) {
			var all []object
			for i := range 9 {
				one := maps.Clone(serviceIn(config, kind))
				one["operator"] = strings.Repeat("x", i+1)
				all = append(all, one)
			}
			config[kind], config[selection] = all, object{"selector": "ALL"}
		}
	}
	exact := func(name string, count int) func(config object) {
		return func(config object) { config[name] = object{"selector": "EXACT", "count": count} }
	}
	k, first := newStack(t, nil), newStack(t, rekorV1)
	for name, tt := range map[string]struct {
		edit func(config object)
		text string
	}{
		"no certificate authority":                    {without("caUrls"), "no certificate authority that can be used now"},
		"a certificate authority that ended":          {ended("caUrls"), "no certificate authority that can be used now"},
		"a certificate authority to come":             {coming("caUrls"), "no certificate authority that can be used now"},
		"a certificate authority of API 3":            {future("caUrls"), "no certificate authority that can be used now"},
		"no log":                                      {without("rekorTlogUrls"), "no transparency log"},
		"neither logs nor how many":                   {without("rekorTlogUrls", "rekorTlogConfig"), "no transparency log"},
		"logs, and not how many":                      {without("rekorTlogConfig"), "without rekorTlogConfig"},
		"two of one log":                              {exact("rekorTlogConfig", 2), "no transparency log that can be used now"},
		"a log that ended":                            {ended("rekorTlogUrls"), "no transparency log that can be used now"},
		"a log to come":                               {coming("rekorTlogUrls"), "no transparency log that can be used now"},
		"a log of API 3":                              {future("rekorTlogUrls"), "no transparency log that can be used now"},
		"nine logs":                                   {many("rekorTlogUrls", "rekorTlogConfig"), "more than 8"},
		"no authority, and a log that proves no time": {without("tsaUrls", "tsaConfig"), "nobody would prove when"},
		"authorities, and not how many":               {without("tsaConfig"), "without tsaConfig"},
		"two of one authority":                        {exact("tsaConfig", 2), "no timestamp authority that can be used now"},
		"an authority that ended":                     {ended("tsaUrls"), "no timestamp authority that can be used now"},
		"an authority of API 3":                       {future("tsaUrls"), "no timestamp authority that can be used now"},
		"nine authorities":                            {many("tsaUrls", "tsaConfig"), "more than 8"},
		"an address without a scheme":                 {at("caUrls", "fulcio.example.com"), "no http or https URL"},
		"an address of another scheme":                {at("rekorTlogUrls", "file:///etc/passwd"), "no http or https URL"},
		"an address without a host":                   {at("tsaUrls", "https:///x"), "no http or https URL"},
		"an empty address":                            {at("caUrls", ""), "no http or https URL"},
		"an address that is no URL":                   {at("rekorTlogUrls", "http://a b\x1b["), "no http or https URL"},
		"another media type":                          {func(config object) { config["mediaType"] = "application/json" }, "parse signing config"},
		"no media type":                               {without("mediaType"), "parse signing config"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := newSignerOf(k, k.servers.SigningConfig(tt.edit))
			if err == nil || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("got %v, not %q", err, tt.text)
			}
			if err != nil && strings.ContainsAny(err.Error(), "\n\x1b") {
				t.Errorf("not one line: %q", err)
			}
		})
	}
	k.asked(t, 0, 0, 0)
	// A log of Rekor v1 proves the time.
	signer, err := newSignerOf(first, first.servers.SigningConfig(without("tsaUrls", "tsaConfig")))
	if err != nil {
		t.Fatal(err)
	}
	bundles, err := signer.Sign(t.Context(), []byte(payload))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := open(bundles[0].JSON(), first.verifier(t, alice)); err != nil || got.TimeSource != bundle.TimeLog {
		t.Errorf("%+v, %v", got, err)
	}
	first.asked(t, 1, 1, 0)
}

func newSignerOf(k *stack, json []byte) (bundle.Signer, error) {
	config, err := bundle.ParseSigningConfig(json)
	if err != nil {
		return nil, err
	}
	trusted, err := bundle.ParseTrustedRoot(k.TrustedRoot(nil))
	if err != nil {
		return nil, err
	}
	return bundle.NewSigstoreSigner(&http.Client{}, trusted, config, k.token)
}

// A password in an address would stand in every error that names the service.
func TestAddressesWithPasswordsAreRefusedAndNotRepeated(t *testing.T) {
	k := newStack(t, nil)
	for _, kind := range []string{"caUrls", "rekorTlogUrls", "tsaUrls"} {
		_, err := newSignerOf(k, k.servers.SigningConfig(func(config object) { serviceIn(config, kind)["url"] = "https://user:hunter2@example.com" }))
		if err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", kind, err)
		}
	}
	for _, address := range []string{"", "example.com", "ftp://example.com", "https://", "https://user:hunter2@example.com"} {
		config, err := k.config(t, nil).WithTimestampAuthority(address)
		if err == nil {
			_, err = bundle.NewSigstoreSigner(k.client, k.trusted(t, nil), config, k.token)
		}
		if err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("authority at %q: %v", address, err)
		}
	}
}

func TestATimestampAuthorityInPlaceOfTheConfigs(t *testing.T) {
	k := newStack(t, nil)
	none := k.config(t, func(config object) { delete(config, "tsaUrls"); delete(config, "tsaConfig") })
	config, err := none.WithTimestampAuthority(k.servers.TSA)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := bundle.NewSigstoreSigner(k.client, k.trusted(t, nil), config, k.token)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := signer.Sign(t.Context(), []byte(payload)); err != nil {
		t.Error(err)
	}
	k.asked(t, 1, 1, 1)
	if _, err := bundle.NewSigstoreSigner(k.client, k.trusted(t, nil), none, k.token); err == nil {
		t.Error("the config was changed")
	}
}

func TestTheIssuerOfASigningConfig(t *testing.T) {
	k := newStack(t, nil)
	if got, err := k.config(t, nil).Issuer(); err != nil || got != k.issuer.URL {
		t.Errorf("%q, %v", got, err)
	}
	for name, edit := range map[string]func(config object){
		"none": func(config object) { delete(config, "oidcUrls") },
		"ended": func(config object) {
			serviceIn(config, "oidcUrls")["validFor"] = object{"start": "2024-01-01T00:00:00Z", "end": "2024-02-01T00:00:00Z"}
		},
	} {
		if got, err := k.config(t, edit).Issuer(); err == nil || got != "" {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

func TestTrustConfigs(t *testing.T) {
	k := newStack(t, nil)
	edited := func(edit func(config object)) []byte {
		var config object
		if err := json.Unmarshal(k.servers.TrustConfig(), &config); err != nil {
			t.Fatal(err)
		}
		edit(config)
		return fakesigstore.JSON(config)
	}
	trusted, config, err := bundle.ParseTrustConfig(k.servers.TrustConfig())
	if err != nil {
		t.Fatal(err)
	}
	signer, err := bundle.NewSigstoreSigner(k.client, trusted, config, k.token)
	if err != nil {
		t.Fatal(err)
	}
	bundles, err := signer.Sign(t.Context(), []byte(payload))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := open(bundles[0].JSON(), k.verifier(t, alice)); err != nil {
		t.Error(err)
	}
	trusted, config, err = bundle.ParseTrustConfig(edited(func(config object) { delete(config, "signingConfig") }))
	if err != nil || trusted == nil || config != nil {
		t.Errorf("for verifying: %v, %v, %v", trusted, config, err)
	}
	member := func(name, inner string) func(config object) {
		return func(config object) { delete(config[name].(object), inner) }
	}
	for name, data := range map[string][]byte{
		"nothing":                         nil,
		"no JSON":                         []byte("{"),
		"another JSON":                    []byte(`[]`),
		"a trusted root":                  k.TrustedRoot(nil),
		"a signing config":                k.servers.SigningConfig(nil),
		"another media type":              edited(func(config object) { config["mediaType"] = "application/vnd.dev.sigstore.clienttrustconfig.v0.9+json" }),
		"no media type":                   edited(func(config object) { delete(config, "mediaType") }),
		"no root":                         edited(func(config object) { delete(config, "trustedRoot") }),
		"a root without authorities":      edited(member("trustedRoot", "certificateAuthorities")),
		"a root without logs":             edited(member("trustedRoot", "tlogs")),
		"a root of another type":          edited(func(config object) { config["trustedRoot"].(object)["mediaType"] = "x" }),
		"a config of another type":        edited(func(config object) { config["signingConfig"].(object)["mediaType"] = "x" }),
		"a config that says not how many": edited(member("signingConfig", "rekorTlogConfig")),
		"an unknown member":               edited(func(config object) { config["more"] = 1 }),
		"something behind it":             append(k.servers.TrustConfig(), "{}"...),
		"more than the limit":             append(k.servers.TrustConfig(), slices.Repeat([]byte(" "), 2<<20)...),
	} {
		trusted, config, err := bundle.ParseTrustConfig(data)
		if err == nil || trusted != nil || config != nil {
			t.Errorf("%s: %v, %v, %v", name, trusted, config, err)
		} else if strings.ContainsAny(err.Error(), "\n\x1b") || len(err.Error()) > 1000 {
			t.Errorf("%s: not one short line: %q", name, err)
		}
	}
	if c, err := bundle.ParseSigningConfig(append(k.servers.SigningConfig(nil), slices.Repeat([]byte(" "), 1<<20)...)); err == nil || c != nil {
		t.Errorf("a signing config of more than the limit: %v, %v", c, err)
	}
}

// What parses selects services or says why not.
func FuzzParseSigningConfig(f *testing.F) {
	k := newStack(f, nil)
	f.Add(k.servers.SigningConfig(nil))
	f.Add(k.servers.SigningConfig(func(config object) { config["rekorTlogConfig"] = object{"selector": "EXACT", "count": 1} }))
	f.Add(k.servers.SigningConfig(func(config object) { clear(config["tsaUrls"].([]object)[0]) }))
	f.Add(k.servers.SigningConfig(func(config object) { config["caUrls"] = []any{nil} }))
	trusted := k.trusted(f, nil)
	f.Fuzz(func(t *testing.T, data []byte) {
		config, err := bundle.ParseSigningConfig(data)
		if err != nil {
			if config != nil {
				t.Fatal("a config and an error")
			}
			return
		}
		usable(t, k, trusted, config)
	})
}

func FuzzParseTrustConfig(f *testing.F) {
	k := newStack(f, nil)
	f.Add(k.servers.TrustConfig())
	f.Add([]byte(`{"mediaType":"application/vnd.dev.sigstore.clienttrustconfig.v0.1+json","trustedRoot":{},"signingConfig":{}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		trusted, config, err := bundle.ParseTrustConfig(data)
		if err != nil {
			if trusted != nil || config != nil {
				t.Fatal("a root or a config, and an error")
			}
			return
		}
		if _, err := bundle.NewSigstoreVerifier(trusted, bundle.SigstoreIdentity{Subject: alice, Issuer: k.issuer.URL}); err != nil {
			t.Fatal("a root that does not verify:", err)
		}
		if config != nil {
			usable(t, k, trusted, config)
		}
	})
}

// usable makes a signer of a config, and demands that it be one or an error of one line.
func usable(t *testing.T, k *stack, trusted *bundle.TrustedRoot, config *bundle.SigningConfig) {
	t.Helper()
	signer, err := bundle.NewSigstoreSigner(k.client, trusted, config, k.token)
	if (err == nil) != (signer != nil) {
		t.Fatalf("%v, %v", signer, err)
	}
	if err != nil && strings.Contains(err.Error(), "\n") {
		t.Fatalf("not one line: %q", err)
	}
	if issuer, err := config.Issuer(); (err == nil) == (issuer == "") {
		t.Fatalf("issuer %q, %v", issuer, err)
	}
	if other, err := config.WithTimestampAuthority(k.servers.TSA); err != nil || other == nil {
		t.Fatalf("with another authority: %v", err)
	}
}
