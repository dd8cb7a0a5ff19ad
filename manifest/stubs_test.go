package manifest_test

import (
	"strings"
	"testing"

	"github.com/modelsig/modelsig/manifest"
)

func TestUnfinishedDownloadsAreRefusedByName(t *testing.T) {
	for _, tt := range []struct {
		name string
		code string
	}{
		{"model.safetensors", ""},
		{"part", ""},
		{"a.part/model.bin", ""}, // a folder may be called so
		{"model.part1", ""},
		{"incomplete", ""},
		{"model.bin.part", "partial-file"},
		{"a/b/model.bin.PART", "partial-file"},
		{"blobs/0123.incomplete", "partial-file"},
		{".Incomplete", "partial-file"},
	} {
		names := []string{"a.bin", tt.name, "z.bin"}
		warnings, err := manifest.CheckStubs(names, nil)
		if got := code(t, err); got != tt.code || len(warnings) != 0 {
			t.Errorf("%s: %v, %v", tt.name, warnings, err)
		}
		warnings, err = manifest.CheckStubs(names, manifest.Allow{manifest.PartialFile})
		if err != nil || (len(warnings) == 1) != (tt.code != "") {
			t.Errorf("%s, allowed: %v, %v", tt.name, warnings, err)
		}
		if len(warnings) == 1 && (warnings[0].Name != tt.name || warnings[0].Threat != manifest.PartialFile) {
			t.Errorf("%s: %+v", tt.name, warnings[0])
		}
	}
}

// pointer is what Git LFS leaves where content was not fetched.
const pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"

func TestPointersAreRefused(t *testing.T) {
	for _, tt := range []struct {
		name    string
		content string
		pointer bool
	}{
		{"a pointer", pointer, true},
		{"a pointer without the last line end", strings.TrimSuffix(pointer, "\n"), true},
		{"a pointer with extensions", strings.Replace(pointer, "oid", "ext-0-foo sha256:00\noid", 1), true},
		{"a pointer of the first version", strings.Replace(pointer, "git-lfs", "hawser", 1), true},
		{"a pointer from before that", strings.Replace(pointer, "https://git-lfs.github.com/spec/v1", "http://git-media.io/v/2", 1), true},
		{"a pointer as long as can be", pointer + "x-y " + strings.Repeat("z", 1024-len(pointer)-4), true},
		{"one byte more", pointer + "x-y " + strings.Repeat("z", 1025-len(pointer)-4), false},
		{"no file at all", "", false},
		{"the first line only", "version https://git-lfs.github.com/spec/v1\n", false},
		{"another version", strings.Replace(pointer, "v1", "v9", 1), false},
		{"a text about pointers", "# About\n" + pointer, false},
		{"white space around it", " \r\n" + pointer + "\n ", true},
		{"lines that end as on Windows", strings.ReplaceAll(pointer, "\n", "\r\n"), true},
		{"an empty line within", strings.Replace(pointer, "\n", "\n\n", 1), true},
		{"a space before a key", strings.Replace(pointer, "oid", " oid", 1), false},
		{"lines that are no keys", pointer + "And some text.\n", false},
		{"a line without value", pointer + "x\n", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, hashing := range []manifest.Hashing{{}, {ShardSize: 8}} {
				files := []manifest.File{memory("ok", "x"), memory("a", tt.content)}
				h := manifest.Hasher{Hashing: hashing, Pointers: func(t *manifest.ThreatError) error { return t }}
				got, err := h.Hash(t.Context(), files)
				if want := tt.pointer; (code(t, err) == "lfs-pointer") != want || (got == nil) != want {
					t.Errorf("%v, %v", got, err)
				}
				var named []string
				h.Pointers = func(t *manifest.ThreatError) error {
					named = append(named, t.Name)
					return nil
				}
				if _, err := h.Hash(t.Context(), files); err != nil || len(named) == 1 != tt.pointer {
					t.Errorf("allowed: %v, named %q", err, named)
				}
				h.Pointers = nil
				if _, err := h.Hash(t.Context(), files); err != nil {
					t.Errorf("not asked for: %v", err)
				}
			}
		})
	}
}
