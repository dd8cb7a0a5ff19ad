package bundle_test

import (
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"testing"

	"github.com/modelsig/modelsig/bundle"
)

func TestInsecureClaims(t *testing.T) {
	cert := base64.StdEncoding.EncodeToString(leafDER(t))
	leaf, err := x509.ParseCertificate(leafDER(t))
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		data string
		want bundle.Claims
	}{
		"a key": {signed(t, payload), bundle.Claims{
			Method: bundle.MethodKey, Hint: fingerprint(t, "p256"), Signatures: 1, PayloadType: bundle.PayloadType, Payload: []byte(payload)}},
		"a certificate": {string(handMade(t, `{"certificate":{"rawBytes":"`+cert+`"}}`, "t", []byte("p"), []byte{1}, []byte{2})), bundle.Claims{
			Method: bundle.MethodCertificate, Subject: "release@example.com", Names: 1, NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter, Signatures: 2, PayloadType: "t", Payload: []byte("p")}},
		"no signature": {string(handMade(t, keyMaterial, "t", []byte("p"))), bundle.Claims{
			Method: bundle.MethodKey, PayloadType: "t", Payload: []byte("p")}},
		"a certificate that is none": {string(handMade(t, `{"certificate":{"rawBytes":"AAAA"},"tlogEntries":[{}]}`, "t", []byte("p"), []byte{1})), bundle.Claims{
			Method: bundle.MethodSigstore, LogEntries: []bundle.LogEntry{{}}, Signatures: 1, PayloadType: "t", Payload: []byte("p")}},
		"a message": {string(readFile(t, "testdata/cosign/p256.blob.json")), bundle.Claims{
			Method: bundle.MethodKey, Hint: "+KYGryge+ivfLCDiCcNeGsts8VjWoZb27lcvjbNjvMc=", Signatures: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			tc.want.MediaType = bundle.MediaType
			got, err := bundle.InsecureClaims([]byte(tc.data))
			if err != nil {
				t.Fatal(err)
			}
			if fmt.Sprintf("%+v", *got) != fmt.Sprintf("%+v", tc.want) {
				t.Errorf("claims %+v, want %+v", *got, tc.want)
			}
		})
	}
	if _, err := bundle.InsecureClaims([]byte("{}")); !errors.Is(err, bundle.ErrMalformed) {
		t.Error(err)
	}
}
