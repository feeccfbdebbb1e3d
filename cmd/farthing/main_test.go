package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/farthing402/farthing/x402"
)

// heavy asks for the full numbers: hours of a shop's life instead of seconds of it.
var heavy = os.Getenv("FARTHING_HEAVY") == "1"

// patience is how long a test waits for something that has to come. It is far above what anything takes, because it
// must hold on a machine that does much else.
const patience = 60 * time.Second

// The test binary stands in for the command, so that every process of a test is the code under test.
func TestMain(m *testing.M) {
	testscript.Main(stories{m}, map[string]func(){
		"farthing": main,
		"screen":   func() { os.Exit(onScreen(os.Args[1:])) },
		"ask":      func() { os.Exit(ask(os.Args[1:])) },
	})
}

// stories runs more tests at once than there are processors: they wait for blocks and cycles, and hardly compute.
type stories struct{ *testing.M }

func (s stories) Run() int {
	flag.Parse()
	chosen := false
	flag.Visit(func(f *flag.Flag) { chosen = chosen || f.Name == "test.parallel" })
	if !chosen {
		if err := flag.Set("test.parallel", "6"); err != nil {
			panic(err)
		}
	}
	return s.M.Run()
}

func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir: filepath.Join("testdata", "script"),
		Setup: func(e *testscript.Env) error {
			e.Setenv("FARTHING_HOME", filepath.Join(e.WorkDir, "home")) // nobody's own state, and no other test's
			e.Values["names"] = names{}
			return nil
		},
		Condition: func(c string) (bool, error) {
			if c == "heavy" {
				return heavy, nil
			}
			return false, fmt.Errorf("no condition %q", c)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"start": scriptStart, "await": scriptAwait, "interrupt": scriptInterrupt, "exit": scriptExit,
			"eventually": scriptEventually, "upstream": scriptUpstream, "served": scriptServed, "arrives": scriptArrives, "capture": scriptCapture,
			"cut": scriptCut, "ends": scriptEnds,
		},
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
	})
}

// names keeps what a script started, by the name that it gave it.
type names map[string]any

func (n names) process(ts *testscript.TestScript, name string) *process {
	p, ok := n[name].(*process)
	if !ok {
		ts.Fatalf("nothing named %s was started", name)
	}
	return p
}

func (n names) upstream(ts *testscript.TestScript, name string) *upstream {
	u, ok := n[name].(*upstream)
	if !ok {
		ts.Fatalf("no upstream %s", name)
	}
	return u
}

func namesOf(ts *testscript.TestScript) names { return ts.Value("names").(names) }

// start NAME PATTERN farthing ARGS… runs the command in the background, with its streams in NAME.out and NAME.err, and
// waits until one of them has a line that matches. The first group of the pattern becomes the variable NAME.
func scriptStart(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: start NAME PATTERN COMMAND ARGS…")
	}
	name, pattern := args[0], args[1]
	p, err := startProcess(processConfig{
		Command: args[2], Args: args[3:], Dir: ts.MkAbs("."), Files: filepath.Join(ts.Getenv("WORK"), name),
		Env: []string{"FARTHING_HOME=" + ts.Getenv("FARTHING_HOME"), "FARTHING_PASSPHRASE_FILE=" + ts.Getenv("FARTHING_PASSPHRASE_FILE"), "PATH=" + ts.Getenv("PATH"), "HOME=/no-home", "UPSTREAM=" + ts.Getenv("UPSTREAM")},
	})
	ts.Check(err)
	ts.Defer(p.kill)
	namesOf(ts)[name] = p
	expect(ts, name, p, pattern)
}

// await NAME PATTERN waits for a line of what start began.
func scriptAwait(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: await NAME PATTERN")
	}
	expect(ts, args[0], namesOf(ts).process(ts, args[0]), args[1])
}

func expect(ts *testscript.TestScript, name string, p *process, pattern string) {
	re, err := regexp.Compile("(?m)" + pattern)
	ts.Check(err)
	match, err := p.await(re)
	if err != nil {
		ts.Fatalf("%s: %v", name, err)
	}
	if len(match) > 1 {
		ts.Setenv(name, match[1])
	}
}

// interrupt NAME presses Ctrl-C and wants the process to end well.
func scriptInterrupt(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: interrupt NAME")
	}
	if err := namesOf(ts).process(ts, args[0]).interrupt(); err != nil {
		ts.Fatalf("%s: %v", args[0], err)
	}
}

// cut NAME ends a process as a power cut would.
func scriptCut(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: cut NAME")
	}
	namesOf(ts).process(ts, args[0]).kill()
}

// ends NAME CODE waits for a process to end by itself, with the code.
func scriptEnds(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: ends NAME CODE")
	}
	p := namesOf(ts).process(ts, args[0])
	select {
	case <-p.ended:
	case <-time.After(patience):
		ts.Fatalf("%s does not end", args[0])
	}
	if got := strconv.Itoa(p.cmd.ProcessState.ExitCode()); got != args[1] {
		text, _ := p.written.read()
		ts.Fatalf("%s ended with %s, want %s\n%s", args[0], got, args[1], text)
	}
}

// exit CODE COMMAND ARGS… runs a command that must end with the code.
func scriptExit(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exit CODE COMMAND ARGS…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var ended *exec.ExitError
		if !errors.As(err, &ended) {
			ts.Fatalf("%v", err)
		}
		got = ended.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit %d, want %d", got, want)
	}
}

// eventually PATTERN COMMAND ARGS… repeats a command until it ends well and its standard output matches.
func scriptEventually(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: eventually PATTERN COMMAND ARGS…")
	}
	re, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	if !pollEvery(250*time.Millisecond, func() bool { return ts.Exec(args[1], args[2:]...) == nil && re.MatchString(ts.ReadFile("stdout")) }) {
		ts.Fatalf("never matched %s", args[0])
	}
}

// upstream NAME runs a small HTTP server, the one that a gate sells, and puts its address into the variable NAME.
func scriptUpstream(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: upstream NAME")
	}
	u, err := openUpstream("127.0.0.1:0")
	ts.Check(err)
	ts.Defer(u.close)
	namesOf(ts)[args[0]] = u
	ts.Setenv(args[0], u.url)
}

// arrives NAME PATH waits until the upstream is asked for a path.
func scriptArrives(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: arrives NAME PATH")
	}
	u := namesOf(ts).upstream(ts, args[0])
	if !poll(func() bool { return u.served(args[1]) > 0 }) {
		ts.Fatalf("nobody asks for %s", args[1])
	}
}

// served NAME N PATH wants the upstream to have been asked for a path that often.
func scriptServed(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: served NAME COUNT PATH")
	}
	u := namesOf(ts).upstream(ts, args[0])
	if got := strconv.Itoa(u.served(args[2])); got != args[1] {
		ts.Fatalf("%s was served %s times, want %s", args[2], got, args[1])
	}
}

// capture NAME PATTERN puts the first group of a match in the last command's streams into a variable.
func scriptCapture(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: capture NAME PATTERN")
	}
	re, err := regexp.Compile("(?m)" + args[1])
	ts.Check(err)
	match := re.FindStringSubmatch(ts.ReadFile("stdout") + "\n" + ts.ReadFile("stderr"))
	if len(match) < 2 {
		ts.Fatalf("nothing matches %s", args[1])
	}
	ts.Setenv(args[0], match[1])
}

// onScreen is the command as a person at a terminal sees it: tables instead of JSON lines.
func onScreen(args []string) int {
	p := &program{In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Env: os.LookupEnv, Now: time.Now, Terminal: true}
	return p.Main(context.Background(), args)
}

// ask is a plain HTTP client that knows nothing of payments, as curl -i: status, headers in order, body. It shows a 402's
// terms once more as they read when decoded.
func ask(args []string) int {
	flags := flag.NewFlagSet("ask", flag.ContinueOnError)
	method := flags.String("X", "GET", "method")
	accept := flags.String("accept", "", "Accept header")
	agent := flags.String("agent", "ask/1", "User-Agent header")
	payment := flags.String("payment", "", "PAYMENT-SIGNATURE header")
	data := flags.String("d", "", "body")
	if err := flags.Parse(args); err != nil || flags.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: ask [-X METHOD] [-accept TYPE] [-agent NAME] [-payment TEXT] [-d BODY] URL")
		return 2
	}
	req, err := http.NewRequest(*method, flags.Arg(0), strings.NewReader(*data))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	req.Header.Set("User-Agent", *agent)
	if *accept != "" {
		req.Header.Set("Accept", *accept)
	}
	if *payment != "" {
		req.Header.Set(x402.HeaderSignature, *payment)
	}
	resp, err := (&http.Client{Timeout: patience, Transport: &http.Transport{DisableCompression: true}}).Do(req)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer resp.Body.Close()
	fmt.Println(resp.Status)
	if err := resp.Header.Write(os.Stdout); err != nil {
		return 1
	}
	fmt.Println()
	if _, err := io.Copy(os.Stdout, resp.Body); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println()
	if terms := resp.Header.Get(x402.HeaderRequired); terms != "" {
		text, err := base64.StdEncoding.DecodeString(terms)
		if err != nil || !json.Valid(text) {
			fmt.Fprintln(os.Stderr, "the terms cannot be decoded:", err)
			return 1
		}
		fmt.Printf("terms %s\n", text)
	}
	return 0
}

// poll calls ready until it is true, or false when patience has run out.
func poll(ready func() bool) bool { return pollEvery(20*time.Millisecond, ready) }

func pollEvery(pause time.Duration, ready func() bool) bool {
	ticker := time.NewTicker(pause)
	defer ticker.Stop()
	for deadline := time.Now().Add(patience); ; <-ticker.C {
		if ready() {
			return true
		}
		if time.Now().After(deadline) {
			return false
		}
	}
}

// freeAddress is a loopback address on which nobody listens, for a process that has to come back at the same one. Its port
// is below those that systems give to connections and to port 0, so that nobody else is given it meanwhile.
func freeAddress() (string, error) {
	for range 1000 {
		address := fmt.Sprintf("127.0.0.1:%d", 20_000+(uint32(os.Getpid())*37+nextPort.Add(1))%10_000)
		if l, err := net.Listen("tcp", address); err == nil {
			return address, l.Close()
		}
	}
	return "", errors.New("no free port")
}

var nextPort atomic.Uint32
