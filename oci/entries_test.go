package oci_test

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/modelsig/modelsig/manifest"
	"github.com/modelsig/modelsig/oci"
)

// N10 to N13, T04: folders have names too, and consumers make them.
func TestUnpackFolders(t *testing.T) {
	all := map[string]packing{}
	for _, p := range packings() {
		all[p.name] = p
	}
	nfc, nfd := "caf\u00e9", "cafe\u0301"
	in := func(prefix string, entries []entry) []entry {
		out := slices.Clone(entries)
		for i := range out {
			out[i].Name = prefix + out[i].Name
		}
		return out
	}
	for _, test := range []struct {
		name, code, offender string
		threat               manifest.Threat // "": nobody can allow it
		entries              []entry
	}{
		{"N13: a file, then a folder", "file-and-folder", "a", "", []entry{regular("a", "a"), folder("a/"), regular("b", "b")}},
		{"N13: a folder, then a file", "file-and-folder", "a", "", []entry{folder("a/"), regular("a", "a"), regular("b", "b")}},
		{"N13: a folder in a file", "file-and-folder", "a", "", []entry{regular("a", "a"), folder("a/b/c/")}},
		{"N10: a folder and a file but for letter case", "case-collision", "a", manifest.CaseCollision, []entry{regular("a", "a"), folder("A/")}},
		{"N10: a folder in a file but for letter case", "case-collision", "a", manifest.CaseCollision, []entry{regular("a", "a"), folder("A/b/")}},
		{"N11: a folder and a file but for their form", "unicode-collision", nfc, manifest.UnicodeCollision, []entry{regular(nfc, "a"), folder(nfd + "/")}},
		{"N12: a device", "windows-name", "d/aux/", manifest.WindowsName, []entry{regular("a", "a"), folder("d/aux/")}},
		{"N12: a dot at the end", "windows-name", "d./", manifest.WindowsName, []entry{regular("a", "a"), folder("d./")}},
		{"N20b: a folder of Git", "git-files", ".git/", manifest.GitFiles, []entry{regular("a", "a"), folder(".git/")}},
		{"N20b: a folder named as a signature", "git-files", "model.sig/", manifest.GitFiles, []entry{regular("a", "a"), folder("model.sig/")}},
		{"N19: a name that is too long", "name-too-long", "", "", []entry{regular("a", "a"), folder(strings.Repeat("d/", 255) + "d/")}},
		{"a parent, twice", "", "", "", []entry{folder("d/"), regular("d/a", "a"), folder("d/"), folder("d")}},
		{"empty folders", "", "", "", []entry{regular("a", "a"), folder("empty/"), folder("empty/deep/"), folder("x.d/")}},
		{"folders that are one but for letter case", "", "", "", []entry{regular("d/a", "a"), folder("D/"), folder("e/"), folder("E/")}},
	} {
		t.Run(test.name, func(t *testing.T) {
			model := all["ModelPack, tar"].store(t, tarball(t, test.entries...))
			image := all["a container image"]
			layers := image.store(t, tarball(t, in("models/", test.entries)...))
			var blobs []string // each entry in a layer of its own
			for _, e := range in("models/", test.entries) {
				if test.code != "" {
					blobs = append(blobs, tarball(t, e))
				}
			}
			models := []*oci.Model{model, layers}
			if blobs != nil {
				models = append(models, image.put(t, blobs...))
			}
			for _, m := range models {
				files, err := unpack(t, m, oci.FilesOptions{}, oci.UnpackOptions{})
				if test.code == "" {
					if err != nil || len(files.Files) != 1 || len(files.Warnings) > 0 {
						t.Errorf("%+v, %v", files, err)
					}
					continue
				}
				threat := wantThreat(t, err, test.code)
				if threat.Threat != test.threat || test.offender != "" && threat.Name != test.offender || strings.Contains(err.Error(), "~folder~") {
					t.Errorf("%q is refused, allowed by %q: %v", threat.Name, threat.Threat, err)
				}
				if test.threat == "" {
					continue
				}
				files, err = unpack(t, m, oci.FilesOptions{Allow: manifest.Allow{test.threat}}, oci.UnpackOptions{})
				if err != nil || len(files.Warnings) != 1 || files.Warnings[0].Code != test.code || strings.Contains(files.Warnings[0].Error(), "~folder~") {
					t.Errorf("allowed: %+v, %v", files, err)
				}
			}
		})
	}
	t.Run("a folder where KitOps writes the Kitfile", func(t *testing.T) {
		content := tarball(t, regular("a", "a"), folder("Kitfile/"))
		m := withConfig(manifestOf(typed("application/vnd.kitops.modelkit.model.v1.tar", content)), strings.Replace(typed("application/vnd.kitops.modelkit.config.v1+json", "{}"), `"annotations":{}`, "", 1))
		_, err := unpack(t, stored(t, m, content), oci.FilesOptions{}, oci.UnpackOptions{})
		wantThreat(t, err, "file-and-folder")
	})
}

// T01: what a consumer writes through a link beside the model may land in it.
func TestUnpackLinksBesideTheModel(t *testing.T) {
	link := func(name, target string) entry {
		return entry{Header: tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: target}}
	}
	hard := func(name, target string) entry {
		return entry{Header: tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: target}}
	}
	good := []entry{folder("models/"), regular("models/a", "good")}
	image := packing{mediaType: typeImageTar, config: "application/vnd.oci.image.config.v1+json"}
	try := func(layers ...[]entry) error {
		var blobs []string
		for _, l := range layers {
			blobs = append(blobs, tarball(t, l...))
		}
		_, err := unpack(t, image.put(t, blobs...), oci.FilesOptions{Allow: manifest.Threats()}, oci.UnpackOptions{})
		return err
	}
	for _, test := range []struct {
		name, code, offender string // and what the error names beside
		other                string
		entries              []entry
	}{
		{"a file through a link", "special-file", "x/a", "x", []entry{link("x", "models"), regular("x/a", "evil")}},
		{"a file through a link, which comes later", "special-file", "x/a", "x", []entry{regular("x/a", "evil"), link("x", "models")}},
		{"through a link from the root", "special-file", "x/new", "x", []entry{link("x", "/models"), regular("x/new", "evil")}},
		{"through links to links", "special-file", "y/z/a", "y", []entry{link("x", "."), link("y", "x"), regular("y/z/a", "evil")}},
		{"a folder through a link", "special-file", "x/d", "x", []entry{link("x", "models"), folder("x/d/")}},
		{"far below a link", "special-file", "etc/x/b/c/d", "etc/x", []entry{link("etc/x", "../models"), regular("etc/x/b/c/d", "evil")}},
		{"a whiteout through a link", "special-file", "x/.wh.a", "x", []entry{link("x", "models"), regular("x/.wh.a", "")}},
		{"a link through a link", "special-file", "x/l", "x", []entry{link("x", "models"), link("x/l", "/evil")}},
		{"a hard link through a link", "special-file", "x/a", "x", []entry{regular("evil", "evil"), link("x", "models"), hard("x/a", "evil")}},
		{"a hard link to what is below a link", "special-file", "x/a", "x", []entry{link("x", "models"), hard("h", "x/a")}},
		{"through a hard link to a link", "special-file", "y/a", "y", []entry{link("x", "models"), hard("y", "x"), regular("y/a", "evil")}},
		{"below a device", "special-file", "x/a", "x", []entry{special("x", tar.TypeChar), regular("x/a", "evil")}},
		{"a hard link into the model", "special-file", "h", "models/a", []entry{hard("h", "models/a")}},
		{"a hard link into the model, from the root", "special-file", "h", "/models/a", []entry{hard("h", "/models/a")}},
		{"a hard link into the model, with a dot", "special-file", "h", "./models/a", []entry{hard("h", "./models/a")}},
		{"a hard link to the model", "special-file", "h", "models", []entry{hard("h", "models")}},
		{"a hard link with two slashes", "special-file", "h", "//models/a", []entry{hard("h", "//models/a")}},
		{"a hard link up and down", "special-file", "h", "x/../models/a", []entry{hard("h", "x/../models/a")}},
		{"a link, and a file in its place", "duplicate-name", "x", "models/a", []entry{link("x", "models/a"), regular("x", "evil")}},
	} {
		t.Run(test.name, func(t *testing.T) {
			judge := func(err error) {
				t.Helper()
				threat := wantThreat(t, err, test.code)
				if threat.Name != test.offender || !strings.Contains(threat.Reason, fmt.Sprintf("%q", test.other)) {
					t.Errorf("%q is refused, want %q beside %q: %v", threat.Name, test.offender, test.other, err)
				}
			}
			judge(try(slices.Concat(good, test.entries)))
			judge(try(slices.Concat(test.entries, good)))
			judge(try(good, test.entries))
			judge(try(test.entries, good))
			if test.code == "duplicate-name" || len(test.entries) == 1 {
				return
			}
			var alone [][]entry // each in a layer of its own
			for _, e := range test.entries {
				alone = append(alone, []entry{e})
			}
			judge(try(append(alone, good)...))
			slices.Reverse(alone)
			judge(try(append(alone, good)...))
		})
	}
	// What base images are full of.
	base := []entry{
		folder("usr/"), folder("usr/bin/"), regular("usr/bin/perl", "#!"), hard("usr/bin/perl5", "usr/bin/perl"), hard("usr/bin/perl6", "/usr/bin/perl"),
		link("bin", "usr/bin"), link("to-the-model", "/models"), link("etc/mtab", "../proc/mounts"), link("etc/localtime", "/usr/share/zoneinfo/UTC"),
		special("dev/null", tar.TypeChar), special("run/initctl", tar.TypeFifo),
	}
	later := []entry{regular("etc/localtime", "replaced"), folder("usr/"), regular("usr/.wh.old", ""), regular("usr/bin/.wh.perl5", ""), regular("binary/x", "")}
	if err := try(base, good, later); err != nil {
		t.Errorf("a base image: %v", err)
	}
}

// systemd's units have backslashes in their names; images of whole distributions
// have such files, and no consumer of a model car runs on Windows.
func TestUnpackBackslashesBesideTheModel(t *testing.T) {
	image := packing{mediaType: typeImageTar, config: "application/vnd.oci.image.config.v1+json"}
	try := func(name string) error {
		_, err := unpack(t, image.put(t, tarball(t, regular("models/a", "good"), regular(name, "x"))), oci.FilesOptions{Allow: manifest.Threats()}, oci.UnpackOptions{})
		return err
	}
	if err := try(`lib/systemd/system/system-systemd\x2dcryptsetup.slice`); err != nil {
		t.Error(err)
	}
	for _, name := range []string{`models/b\c`, `models/\b`, `../x`, "etc/a\x01"} {
		if err := try(name); err == nil {
			t.Errorf("%q is accepted", name)
		}
	}
}

// What is beside the model takes no more memory than it may.
func TestUnpackMuchBesideTheModel(t *testing.T) {
	image := packing{mediaType: typeTarGzip, config: "application/vnd.oci.image.config.v1+json"}
	try := func(n int, content func(i int) string) error {
		var b strings.Builder
		b.WriteString(plainFile("models/a", "good"))
		for i := range n {
			b.WriteString(content(i))
		}
		_, err := unpack(t, image.put(t, gzipped(t, ended(b.String()))), oci.FilesOptions{}, oci.UnpackOptions{})
		return err
	}
	wantThreat(t, try(2500, func(i int) string {
		return longName(fmt.Sprintf("%d%s", i, strings.Repeat("/d", 240))) + raw("x", tar.TypeReg, 0, nil)
	}), "too-many-entries")
	if err := try(20_000, func(i int) string {
		return raw(fmt.Sprintf("usr/lib/%d/x", i), tar.TypeSymlink, 0, map[int]string{157: "target"})
	}); err != nil {
		t.Errorf("a distribution: %v", err)
	}
}

// T08: little that becomes much, in either compression and between frames.
func TestUnpackRefusesBombs(t *testing.T) {
	zeros := tarball(t, regular("a", strings.Repeat("\x00", 64<<20)))
	for _, test := range []struct {
		name, mediaType, code string
		blob                  string
	}{
		{"gzip", typeWeight + "tar+gzip", "compression-ratio", gzipped(t, zeros)},
		{"zstd", typeWeight + "tar+zstd", "compression-ratio", zstded(t, zeros)},
		{"a window of 16 MiB", typeWeight + "tar+zstd", "compression", func() string {
			var b bytes.Buffer
			w, err := zstd.NewWriter(&b, zstd.WithWindowSize(16<<20), zstd.WithEncoderConcurrency(1))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(w, zeros[:32<<20]); err != nil {
				t.Fatal(err)
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			return b.String()
		}()},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := unpack(t, packing{mediaType: test.mediaType}.put(t, test.blob), oci.FilesOptions{}, oci.UnpackOptions{})
			wantThreat(t, err, test.code)
		})
	}
	t.Run("small files of zeros", func(t *testing.T) {
		model := packing{mediaType: typeWeight + "tar+gzip"}.put(t, gzipped(t, tarball(t, regular("a", strings.Repeat("\x00", 1<<19)))))
		if _, err := unpack(t, model, oci.FilesOptions{}, oci.UnpackOptions{}); err != nil {
			t.Error(err)
		}
	})
}

// T08: names that take memory, or make folders, out of proportion to their
// number. They are refused while they are read.
func TestUnpackRefusesFloodsOfNames(t *testing.T) {
	const entries = 5_000
	file := raw("x", tar.TypeReg, 0, nil)
	for _, test := range []struct {
		name, code string
		read       int // how many entries are read at most
		long       func(i int) string
	}{
		{"4,000 bytes each", "names-too-long", 4500, func(i int) string {
			return fmt.Sprintf("%07d", i) + strings.Repeat("/"+strings.Repeat("x", 248), 16)
		}},
		{"250 folders each", "names-too-long", 4400, func(i int) string { return fmt.Sprintf("%07d", i) + strings.Repeat("/d", 250) }},
		{"as real models have", "", entries, func(i int) string { return fmt.Sprintf("checkpoint-%07d/rank/optimizer.bin", i) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			var blobs []string // the limit is that of all layers
			for layer := range 2 {
				var b strings.Builder
				for i := range entries / 2 {
					b.WriteString(longName(test.long(layer*entries+i)) + file)
				}
				blobs = append(blobs, gzipped(t, ended(b.String())))
			}
			var seen atomic.Int64
			_, err := unpack(t, packing{mediaType: typeWeight + "tar+gzip"}.put(t, blobs...), oci.FilesOptions{}, oci.UnpackOptions{Sink: func(oci.Entry, io.Reader) error {
				seen.Add(1)
				return nil
			}})
			if test.code != "" {
				wantThreat(t, err, test.code)
			} else if err != nil {
				t.Error(err)
			}
			if seen.Load() > int64(test.read) {
				t.Errorf("%d entries were read, want at most %d", seen.Load(), test.read)
			}
		})
	}
}
