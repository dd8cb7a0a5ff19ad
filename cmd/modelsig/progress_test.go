package main

import (
	"bytes"
	"testing"
)

func TestProgressWhereNobodyWatchesIsALineEachTenth(t *testing.T) {
	var out bytes.Buffer
	p := &progressLines{w: &out}
	const total = 1 << 30
	for done := int64(0); done <= total; done += 1 << 20 {
		p.set(done, total)
		p.set(done, total) // as several layers report
	}
	if n := bytes.Count(out.Bytes(), []byte("\n")); n != 9 || !bytes.HasPrefix(out.Bytes(), []byte("progress: 103.0 MiB of 1.0 GiB\n")) {
		t.Errorf("%d lines: %s", n, &out)
	}
	out.Reset()
	p = &progressLines{w: &out}
	for done := int64(0); done <= worthShowing-1; done += 1 << 20 {
		p.set(done, worthShowing-1)
	}
	if out.Len() > 0 {
		t.Errorf("what is soon done has %s", &out)
	}
}
