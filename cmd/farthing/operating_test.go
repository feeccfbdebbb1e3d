package main

import (
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/farthing402/farthing/store/storetest"
)

// docs/operating.md is run as an operator would: its commands, in their order, in an empty folder. Only the ports differ.
func TestOperatingPage(t *testing.T) {
	t.Parallel()
	page := string(must(os.ReadFile("../../docs/operating.md"))(t))
	blocks := regexp.MustCompile("(?ms)^```sh\n(.*?)^```$").FindAllStringSubmatch(page, -1)
	if len(blocks) < 7 {
		t.Fatalf("%d blocks of commands", len(blocks))
	}
	script := "set -euo pipefail\ntrap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n"
	for _, b := range blocks {
		script += b[1]
	}
	db := storetest.Start(t)
	at := must(url.Parse(db.Database(t)))(t)
	shop := must(openUpstream("127.0.0.1:0"))(t)
	t.Cleanup(shop.close)
	script = strings.ReplaceAll(script, "http://127.0.0.1:3000", shop.url)
	script = strings.ReplaceAll(script, "for port in 4010 4011", "for port in :4010 :4011")
	script = strings.ReplaceAll(script, "127.0.0.1:$port", "127.0.0.1$port")
	for _, port := range []string{":8545", ":4010", ":4011", ":4020"} {
		_, free, _ := strings.Cut(must(freeAddress())(t), ":")
		script = strings.ReplaceAll(script, port, ":"+free)
	}
	dir := t.TempDir()
	run := exec.Command("bash", "-c", script)
	run.Dir = dir
	run.Env = append(os.Environ(), "PGHOST="+at.Query().Get("host"), "PGUSER=postgres", "HOME=/no-home", "FARTHING_PASSPHRASE=")
	said, err := run.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, said)
		for _, name := range must(filepath.Glob(filepath.Join(dir, "*.log")))(t) {
			t.Logf("%s:\n%s", filepath.Base(name), must(os.ReadFile(name))(t))
		}
	}
	if paid := strings.Count(string(said), "paid $0.001 to "); paid != 7 {
		t.Errorf("%d purchases were paid, want 7:\n%s", paid, said)
	}
}
