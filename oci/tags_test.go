package oci_test

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
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

// What registries answer that is fine.
func TestTagsOfOthers(t *testing.T) {
	for name, list := range map[string]string{
		"no name":        `{"tags":["v1"]}`,
		"a shorter name": `{"name":"m","tags":["v1"]}`,
		"more members":   `{"name":"acme/m","tags":["v1"],"child":[],"manifest":{}}`,
		"none":           `{"name":"acme/m","tags":[]}`,
		"null for none":  `{"name":"acme/m","tags":null}`,
	} {
		t.Run(name, func(t *testing.T) {
			host := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, list) }))
			tags, err := newClient(t, oci.Options{}).Tags(t.Context(), mustParse(t, host+"/acme/m"))
			if err != nil || len(tags) != strings.Count(list, "v1") {
				t.Errorf("%q, %v", tags, err)
			}
		})
	}
}

// rounds leads from page to page and back.
func rounds(t *testing.T) http.Handler {
	requests := 0
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if requests++; requests > 3 {
			t.Errorf("%d requests for three pages", requests)
		}
		next := map[string]string{"": "a", "a": "b", "b": "a"}[r.URL.Query().Get("last")]
		w.Header().Set("Link", "</v2/m/tags/list?last="+next+`>; rel="next"`)
		fmt.Fprintf(w, `{"name":"m","tags":[%q]}`, next)
	})
}

// emptyPages always has another page, and no tag.
func emptyPages() http.Handler {
	var n atomic.Int64
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", fmt.Sprintf(`</v2/m/tags/list?last=%d>; rel=next`, n.Add(1)))
		fmt.Fprint(w, `{"name":"m","tags":[]}`)
	})
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
		{"a page that was read before", rounds(t)},
		{"an empty page that leads to itself", answer(`</v2/m/tags/list>; rel="next"`, `{"tags":[]}`)},
		{"pages without a tag and without end", emptyPages()},
		{"a link that is none", answer("/v2/m/tags/list?last=a", `{"tags":["a"]}`)},
		{"two links in one", answer(`</v2/m/tags/list?last=a>; rel="prev", </v2/m/tags/list?last=b>; rel="next"`, `{"tags":["a"]}`)},
		{"M12: the list twice", answer("", `{"name":"m","tags":["a"],"tags":["b"]}`)},
		{"M12: the list in two cases", answer("", `{"name":"m","tags":["a"],"Tags":["b"]}`)},
		{"M12: the list in another case", answer("", `{"name":"m","Tags":["b"]}`)},
		{"M12: bytes behind the list", answer("", `{"name":"m","tags":["a"]}{"tags":["b"]}`)},
		{"another repository", answer("", `{"name":"other","tags":["a"]}`)},
		{"another repository that ends alike", answer("", `{"name":"acme/m","tags":["a"]}`)},
		{"no list", answer("", `{"name":"m"}`)},
		{"a list of no names", answer("", `{"name":"m","tags":[1]}`)},
		{"a page that is too large", answer("", `{"tags":[%s"a"]}`, strings.Repeat(" ", oci.MaxManifest))},
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
