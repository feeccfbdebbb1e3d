package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"sync"
	"time"
)

// process is one running command of a test, and what it has written.
type process struct {
	cmd     *exec.Cmd
	written transcript
	files   []*os.File
	ended   chan struct{}
	err     error // how it ended; set before ended is closed
}

// processConfig says what to start.
type processConfig struct {
	Command string
	Args    []string
	Dir     string
	Env     []string // all of it
	Files   string   // the streams are also written to this name with .out and .err; empty: not
}

func startProcess(c processConfig) (*process, error) {
	p := &process{cmd: exec.Command(c.Command, c.Args...), ended: make(chan struct{})}
	p.cmd.Dir, p.cmd.Env = c.Dir, c.Env
	p.cmd.Stdout, p.cmd.Stderr = io.Writer(&p.written), io.Writer(&p.written)
	if c.Files != "" {
		for _, stream := range []struct {
			name string
			to   *io.Writer
		}{{".out", &p.cmd.Stdout}, {".err", &p.cmd.Stderr}} {
			f, err := os.Create(c.Files + stream.name)
			if err != nil {
				return nil, err
			}
			p.files = append(p.files, f)
			*stream.to = io.MultiWriter(f, &p.written) // in this order: a line that was awaited is in the file
		}
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		p.err = p.cmd.Wait()
		for _, f := range p.files {
			f.Close()
		}
		close(p.ended)
	}()
	return p, nil
}

// await returns the first match in what the process has written or will write.
func (p *process) await(re *regexp.Regexp) ([]string, error) {
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	for {
		text, grown := p.written.read()
		if match := re.FindStringSubmatch(text); match != nil {
			return match, nil
		}
		select {
		case <-grown:
		case <-p.ended:
			if text, _ = p.written.read(); re.MatchString(text) {
				return re.FindStringSubmatch(text), nil
			}
			return nil, fmt.Errorf("it ended (%v) without a line that matches %s:\n%s", p.err, re, text)
		case <-timeout.C:
			return nil, fmt.Errorf("no line matches %s:\n%s", re, text)
		}
	}
}

// kill ends the process as a power cut would, and returns when it is gone. Killing it again does nothing.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may be gone already
	<-p.ended
}

// interrupt presses Ctrl-C, and wants the process to end with code 0.
func (p *process) interrupt() error {
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil {
		return err
	}
	select {
	case <-p.ended:
	case <-time.After(patience):
		p.kill()
		return errors.New("it did not end after an interrupt")
	}
	if p.err != nil {
		text, _ := p.written.read()
		return fmt.Errorf("after an interrupt: %w\n%s", p.err, text)
	}
	return nil
}

// transcript is what a process has written so far.
type transcript struct {
	mu    sync.Mutex
	text  bytes.Buffer  // guarded by mu
	grown chan struct{} // guarded by mu; closed by the next write
}

func (t *transcript) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text.Write(b)
	if t.grown != nil {
		close(t.grown)
		t.grown = nil
	}
	return len(b), nil
}

// read returns everything so far, and a channel that is closed when there is more.
func (t *transcript) read() (string, <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.grown == nil {
		t.grown = make(chan struct{})
	}
	return t.text.String(), t.grown
}
