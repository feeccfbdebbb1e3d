// Package interop drives the published x402 and T402 packages, as buyers, sellers and facilitators, and a client of 4Mica's
// protocol, against the farthing program, on anvil and on farthing's own development chain. It needs node and the packages (npm ci in this folder), so
// it runs only with FARTHING_INTEROP=1; then whatever is missing is a failure.
package interop

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// patience is how long a test waits for something that has to come.
const patience = 60 * time.Second

// farthing is the program under test.
var farthing string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if os.Getenv("FARTHING_INTEROP") != "1" {
		return m.Run() // everything skips
	}
	dir, err := os.MkdirTemp("", "farthing-interop-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	farthing = filepath.Join(dir, "farthing")
	build := exec.Command("go", "build", "-o", farthing, "../cmd/farthing")
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "build farthing:", err)
		return 1
	}
	defer closeWorlds()
	return m.Run()
}

// real skips the test unless it was asked for.
func real(t *testing.T) {
	t.Helper()
	if os.Getenv("FARTHING_INTEROP") != "1" {
		t.Skip("needs node and the packages of npm ci in interop/: set FARTHING_INTEROP=1")
	}
	t.Parallel()
}

// Whoever installs the packages gets them from where their npm gets packages: the lock file pins content, not places.
func TestLockFileNamesNoHost(t *testing.T) {
	t.Parallel()
	var lock struct {
		Packages map[string]struct {
			Version, Resolved, Integrity string
		}
	}
	check(t, json.Unmarshal(must(os.ReadFile("package-lock.json"))(t), &lock))
	if len(lock.Packages) < 100 {
		t.Fatalf("%d packages", len(lock.Packages))
	}
	for name, p := range lock.Packages {
		if p.Resolved != "" {
			t.Errorf("%s is resolved at %s", name, p.Resolved)
		}
		if name != "" && (p.Version == "" || !strings.HasPrefix(p.Integrity, "sha512-")) {
			t.Errorf("%s is not pinned", name)
		}
	}
}

// anvil is where npm put the pinned node.
func anvil() string {
	cpu := runtime.GOARCH
	goos := map[string]string{"windows": "win32"}[runtime.GOOS]
	if goos == "" {
		goos = runtime.GOOS
	}
	return filepath.Join("node_modules", "@foundry-rs", fmt.Sprintf("anvil-%s-%s", goos, cpu), "bin", "anvil")
}

// process is one running command, and what it has written.
type process struct {
	name  string
	cmd   *exec.Cmd
	stdin io.Closer // the scripts end when it does
	ended chan struct{}

	mu    sync.Mutex
	out   bytes.Buffer  // guarded by mu; standard output
	all   bytes.Buffer  // guarded by mu; both streams
	grown chan struct{} // guarded by mu; closed by the next write
}

// sink is one stream of a process.
type sink struct {
	p   *process
	out bool
}

func (s sink) Write(b []byte) (int, error) {
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	if s.out {
		s.p.out.Write(b)
	}
	s.p.all.Write(b)
	if s.p.grown != nil {
		close(s.p.grown)
		s.p.grown = nil
	}
	return len(b), nil
}

func startProcess(dir string, env []string, name string, args ...string) (*process, error) {
	p := &process{name: filepath.Base(name), cmd: exec.Command(name, args...), ended: make(chan struct{})}
	p.cmd.Dir, p.cmd.Env = dir, append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = sink{p, true}, sink{p, false}
	stdin, err := p.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	p.stdin = stdin
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = p.cmd.Wait() // what it wrote says more
		close(p.ended)
	}()
	return p, nil
}

// stop ends the process at once and returns when it is gone. Stopping it again does nothing.
func (p *process) stop() {
	_ = p.stdin.Close()
	_ = p.cmd.Process.Kill()
	<-p.ended
}

// last returns the end of what the process has written.
func (p *process) last() string {
	const most = 4000
	text := p.text()
	if len(text) > most {
		text = "…" + text[len(text)-most:]
	}
	return text
}

func (p *process) text() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.all.String()
}

// await returns the first match in what the process has written or will write: its first group, or all of it.
func (p *process) await(pattern string) (string, error) {
	re := regexp.MustCompile("(?m)" + pattern)
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	for {
		p.mu.Lock()
		text := p.all.String()
		if p.grown == nil {
			p.grown = make(chan struct{})
		}
		grown := p.grown
		p.mu.Unlock()
		if match := re.FindStringSubmatch(text); match != nil {
			return match[len(match)-1], nil
		}
		select {
		case <-grown:
		case <-p.ended:
			if match := re.FindStringSubmatch(p.text()); match != nil {
				return match[len(match)-1], nil
			}
			return "", fmt.Errorf("%s ended without a line that matches %s:\n%s", p.name, pattern, p.text())
		case <-timeout.C:
			return "", fmt.Errorf("%s writes no line that matches %s:\n%s", p.name, pattern, p.text())
		}
	}
}

// result is what a buyer's script says of one request.
type result struct {
	N       int
	Status  int
	Body    string
	Receipt *receipt
	// ReceiptHeader is PAYMENT-RESPONSE as it was sent.
	ReceiptHeader string
	Refusal       string          // the seller's word in a 402
	Error         string          // why the client gave up
	Terms         json.RawMessage // decoded header of the first 402
	Offered       string          // body of the first 402
	Header        string          // name of the header that carried the payment
	Payment       string          // its value
	// Attempts counts the requests that carried a payment.
	Attempts int
}

type receipt struct {
	Success     bool
	ErrorReason string
	Transaction string
	Network     string
	Payer       string
	Amount      string
	Extra       json.RawMessage
	Extensions  json.RawMessage
}

// options of a script.
type options map[string]any

func (o options) with(more options) options {
	all := options{}
	for k, v := range o {
		all[k] = v
	}
	for k, v := range more {
		all[k] = v
	}
	return all
}

func (o options) json() string {
	text, err := json.Marshal(o)
	if err != nil {
		panic(err)
	}
	return string(text)
}

// script runs a buyer's script to its end and returns what it says of each request, in their order.
func script(t testing.TB, name string, o options) []result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "node", name, o.json())
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s%s", name, err, out, stderr.String())
	}
	var results []result
	lines := bufio.NewScanner(bytes.NewReader(out))
	lines.Buffer(nil, 1<<22)
	for lines.Scan() {
		var r result
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			t.Fatalf("%s says %q: %v", name, lines.Text(), err)
		}
		results = append(results, r)
	}
	want := 1
	if times, ok := o["times"].(int); ok {
		want = times
	}
	if len(results) != want {
		t.Fatalf("%s says %d things of %d requests\n%s%s", name, len(results), want, out, stderr.String())
	}
	ordered := make([]result, len(results))
	for _, r := range results {
		ordered[r.N] = r
	}
	return ordered
}

// once is script for a single request.
func once(t testing.TB, name string, o options) result {
	t.Helper()
	return script(t, name, o)[0]
}

// server is a script that listens.
type server struct {
	*process
	url string
}

func startServer(name string, o options) (*server, error) {
	p, err := startProcess("", nil, "node", name, o.json())
	if err != nil {
		return nil, err
	}
	p.name = name
	url, err := p.await(`^\{"url":"([^"]+)"\}$`)
	if err != nil {
		p.stop()
		return nil, err
	}
	return &server{p, url}, nil
}

// serve starts a script that listens until the test ends.
func serve(t testing.TB, name string, o options) *server {
	t.Helper()
	s, err := startServer(name, o)
	check(t, err)
	t.Cleanup(func() {
		s.stop()
		if t.Failed() {
			t.Logf("%s wrote:\n%s", name, s.last())
		}
	})
	return s
}

// served counts how often the handler behind a seller's script ran for a path.
func (s *server) served(path string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Count(s.out.String(), fmt.Sprintf(`"path":%q`, path))
}

// freeAddress returns an address of the loopback that nobody listens on.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// must returns a function that fails the test unless there is no error, and else returns the value: must(f())(t).
func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		check(t, err)
		return v
	}
}
