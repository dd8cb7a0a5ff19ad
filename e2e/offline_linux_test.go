package e2e

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// With a trusted root, verifying what a Sigstore made needs no network: it is
// done where there is none, not even a loopback.
func TestSigstoreBundlesVerifyWithoutANetwork(t *testing.T) {
	eachCase(t, "*-sigstore", func(t *testing.T, c omsCase, dir, model string) {
		for trusted, want := range map[bool]int{true: 0, false: 1} {
			args := append([]string{"verify", c.Method, model, "--signature", filepath.Join(dir, "bundle.sig")}, c.flags(trusted, "--certificate-chain")...)
			cmd := exec.Command(filepath.Join(binary, "modelsig"), args...)
			cmd.Env = []string{"HOME=" + t.TempDir()}
			cmd.SysProcAttr = &syscall.SysProcAttr{
				Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
				UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
				GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
			}
			out, err := cmd.CombinedOutput()
			if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOSPC) {
				t.Skipf("this kernel makes no network namespaces for us: %v", err)
			}
			if code := cmd.ProcessState.ExitCode(); code != want {
				t.Errorf("exit %d, want %d: %v\n%s", code, want, err, out)
			}
		}
	})
}
