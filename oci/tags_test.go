package oci_test

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/modelsig/modelsig/oci"
)

func TestTags(t *testing.T) {
	host := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v2/acme/m/tags/list" {
			t.Errorf("asked for %s", r.URL)
		}
		page := map[string]string{"": `"v2","v1"`, "v1": `"v3","v2"`}[r.URL.Query().Get("last")]
		if r.URL.Query().Get("last") == "" {
			w.Header().Set("Link", `</v2/acme/m/tags/list?last=v1>; rel="next"`)
		}
		fmt.Fprintf(w, `{"name":"acme/m","tags":[%s]}`, page)
	}))
	tags, err := newClient(t, oci.Options{}).Tags(t.Context(), mustParse(t, host+"/acme/m:v9"))
	if err != nil || !slices.Equal(tags, []string{"v1", "v2", "v3"}) {
		t.Errorf("%q, %v", tags, err)
	}
}

func TestTagsOfALayout(t *testing.T) {
	tags, err := newClient(t, oci.Options{}).Tags(t.Context(), mustParse(t, inLayout(t, mixed)))
	if err != nil || !slices.Equal(tags, []string{"v1"}) {
		t.Errorf("%q, %v", tags, err)
	}
}

// A list that is not whole is no list.
func TestTagsCouldNotTell(t *testing.T) {
	answer := func(link, format string, args ...any) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if link != "" {
				w.Header().Set("Link", link)
			}
			fmt.Fprintf(w, format, args...)
		})
	}
	elsewhere := serve(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("another origin was asked") }))
	for _, test := range []struct {
		name    string
		handler http.Handler
	}{
		{"a page on another origin", answer("<http://"+elsewhere+`/v2/m/tags/list?last=a>; rel="next"`, `{"tags":["a"]}`)},
		{"pages without end", answer(`</v2/m/tags/list?last=a>; rel="next"`, `{"tags":[%s"a"]}`, strings.Repeat(`"a",`, 1000))},
		{"what is no tag", answer("", `{"tags":["v1","../v2"]}`)},
		{"what acts on a terminal", answer("", `{"tags":["v1\u001b[2J"]}`)},
		{"a page", answer("", "<html>")},
		{"500", fake{status: 500}},
		{"401", fake{status: 401}},
	} {
		t.Run(test.name, func(t *testing.T) {
			tags, err := newClient(t, oci.Options{}).Tags(t.Context(), mustParse(t, serve(t, test.handler)+"/m"))
			if err == nil || tags != nil || errors.Is(err, oci.ErrNotFound) {
				t.Errorf("%q, %v", tags, err)
			}
			if err != nil && strings.Contains(err.Error(), "\x1b") {
				t.Errorf("not quoted: %q", err)
			}
		})
	}
}
