//go:build unix

package e2e

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/modelsig/modelsig/bundle"
)

// program is the binary under test, in the environment of a script.
func program(ts *testscript.TestScript, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(binary, "modelsig"), args...)
	cmd.Dir = ts.MkAbs(".")
	for _, name := range []string{"PATH", "HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR", "TMPDIR", "OTEL_EXPORTER_OTLP_ENDPOINT"} {
		cmd.Env = append(cmd.Env, name+"="+ts.Getenv(name))
	}
	return cmd
}

// writers is how many sign at once.
const writers = 16

// sixteen signs one artifact with sixteen keys in sixteen processes, and
// verifies with each key afterwards.
func sixteen(_ context.Context, ts *testscript.TestScript, args []string) error {
	var private, public [writers]string
	for i := range writers {
		key, err := bundle.GenerateKey("p256")
		if err != nil {
			return err
		}
		privatePEM, err := bundle.MarshalPrivateKey(key, nil)
		if err != nil {
			return err
		}
		publicPEM, err := bundle.MarshalPublicKey(key.Public())
		if err != nil {
			return err
		}
		private[i] = ts.MkAbs(fmt.Sprintf("writer%d.key", i))
		public[i] = ts.MkAbs(fmt.Sprintf("writer%d.pub", i))
		if err := errors.Join(os.WriteFile(private[i], privatePEM, 0o600), os.WriteFile(public[i], publicPEM, 0o644)); err != nil {
			return err
		}
	}
	all := func(run func(i int) *exec.Cmd) error {
		var group sync.WaitGroup
		var errs [writers]error
		for i := range writers {
			cmd := run(i)
			group.Go(func() {
				if out, err := cmd.CombinedOutput(); err != nil {
					errs[i] = fmt.Errorf("%s: %w\n%s", cmd.Args, err, out)
				}
			})
		}
		group.Wait()
		return errors.Join(errs[:]...)
	}
	if err := all(func(i int) *exec.Cmd { return program(ts, "sign", "key", args[0], "--private-key", private[i]) }); err != nil {
		return err
	}
	return all(func(i int) *exec.Cmd { return program(ts, "verify", "key", args[0], "--public-key", public[i]) })
}

// serveBinary starts modelsig registry with more flags, for the rest of the
// script.
func serveBinary(_ context.Context, ts *testscript.TestScript, args []string) error {
	cmd := program(ts, append([]string{"registry", "--listen", "127.0.0.1:0"}, args...)...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	ts.Defer(func() {
		_ = cmd.Process.Signal(os.Interrupt) // it may have ended
		_ = cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return err
	}
	host, ok := strings.CutPrefix(strings.TrimSpace(line), "Listening on ")
	if !ok {
		return fmt.Errorf("it says %q", line)
	}
	ts.Setenv("SERVED", host)
	return nil
}

// exitInterrupted is what shells make of SIGINT.
const exitInterrupted = 130

// interrupt runs modelsig, sends SIGINT once it has asked the server at
// $FAULTY something, and demands the exit code that says so.
func interrupt(_ context.Context, ts *testscript.TestScript, args []string) error {
	cmd := program(ts, args...)
	if err := cmd.Start(); err != nil {
		return err
	}
	<-registryOf(ts).hit
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		return err
	}
	_ = cmd.Wait() // the state says it
	if code := cmd.ProcessState.ExitCode(); code != exitInterrupted {
		return fmt.Errorf("exit %d, want %d", code, exitInterrupted)
	}
	return nil
}

// kinds of files that kill-often checks: what is whole?
var wholes = map[string]func(path string) error{
	"bundle": func(path string) error {
		data, err := os.ReadFile(path)
		if err == nil {
			_, err = bundle.Parse(data)
		}
		return err
	},
	"key": func(path string) error {
		data, err := os.ReadFile(path)
		if err == nil {
			_, err = bundle.ParsePrivateKey(data, nil)
		}
		return err
	},
	"layout": wholeLayout,
}

// wholeLayout checks that every blob has the digest it is named by, and that
// index.json and oci-layout are whole.
func wholeLayout(dir string) error {
	for _, name := range []string{"index.json", "oci-layout"} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if !json.Valid(data) {
			return fmt.Errorf("%s is half-written: %q", name, data)
		}
	}
	blobs, err := filepath.Glob(filepath.Join(dir, "blobs", "sha256", "*"))
	if err != nil {
		return err
	}
	for _, path := range blobs {
		name := filepath.Base(path)
		if _, err := hex.DecodeString(name); err != nil || len(name) != 64 {
			continue // not a final name
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != name {
			return fmt.Errorf("blob %s is half-written", name)
		}
	}
	return nil
}

// killOften runs modelsig again and again and kills it with SIGKILL: at once,
// after ever more looks at DIR, and as soon as a temporary file is in DIR.
// FILE must be absent or whole each time, and the last run, which nobody kills,
// must make it.
func killOften(_ context.Context, ts *testscript.TestScript, args []string) error {
	dir := ts.MkAbs(args[0])
	var files []string // the first is checked
	for name := range strings.SplitSeq(args[1], ",") {
		files = append(files, ts.MkAbs(name))
	}
	file := files[0]
	whole, ok := wholes[args[2]]
	if !ok {
		return fmt.Errorf("%q is no kind of file", args[2])
	}
	before, err := names(dir)
	if err != nil {
		return err
	}
	isTemporary := func() bool {
		now, err := names(dir)
		if err != nil {
			return false // a name that went away while we looked
		}
		for name := range now {
			if !before[name] && (strings.HasSuffix(name, ".tmp") || strings.HasPrefix(filepath.Base(name), ".")) {
				return true
			}
		}
		return false
	}
	killed := 0
	run := func(enough func(looks int, temporary bool) bool) error {
		cmd := program(ts, args[4:]...)
		if err := cmd.Start(); err != nil {
			return err
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		for looks := 0; ; looks++ {
			select {
			case err := <-ended:
				return err
			default:
			}
			if enough(looks, isTemporary()) {
				break
			}
		}
		if err := cmd.Process.Signal(syscall.SIGKILL); err == nil {
			killed++
		}
		<-ended
		return nil
	}
	points := []func(int, bool) bool{func(int, bool) bool { return true }}
	for range 6 {
		points = append(points, func(_ int, temporary bool) bool { return temporary })
	}
	for most := 16; most <= 1<<12; most *= 2 {
		points = append(points, func(looks int, _ bool) bool { return looks >= most })
	}
	for i, point := range points {
		if err := remove(files); err != nil {
			return err
		}
		if err := run(point); err != nil {
			return fmt.Errorf("kill %d: %w", i, err)
		}
		if _, err := os.Lstat(file); err == nil {
			if err := whole(file); err != nil {
				return fmt.Errorf("kill %d left a half-written %s: %w", i, args[1], err)
			}
		}
	}
	if killed == 0 {
		return errors.New("nothing was killed in time")
	}
	if err := remove(files); err != nil {
		return err
	}
	if err := run(func(int, bool) bool { return false }); err != nil {
		return err
	}
	return whole(file)
}

func remove(files []string) error {
	for _, file := range files {
		if err := os.RemoveAll(file); err != nil {
			return err
		}
	}
	return nil
}

func names(dir string) (map[string]bool, error) {
	found := map[string]bool{}
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		found[path] = true
		return err
	})
	return found, err
}

func mkfifo(_ context.Context, ts *testscript.TestScript, args []string) error {
	return syscall.Mkfifo(ts.MkAbs(args[0]), 0o600)
}
