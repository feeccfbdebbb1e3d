package payer

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
)

// childEnv carries the journal and the seller to a child process: path, a space, URL.
const childEnv = "FARTHING_PAYER_CHILD"

// TestChild is the other process of TestProcessesShareABudget. It buys until the budget says no.
func TestChild(t *testing.T) {
	path, url, ok := strings.Cut(os.Getenv(childEnv), " ")
	if !ok {
		t.Skip("only run by TestProcessesShareABudget, in a process of its own")
	}
	p := newPayer(t, perDay("$0.03"), inFile(path))
	paid := 0
	for {
		_, _, err := get(p, url)
		if code(err) == "budget_exceeded" {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		paid++
	}
	fmt.Printf("paid=%d\n", paid)
}

// Real processes, each killed by nobody, with one journal: together they spend one budget, to the last call.
func TestProcessesShareABudget(t *testing.T) {
	t.Parallel()
	s := (&seller{}).start(t)
	path := journalFile(t)
	var mu sync.Mutex
	var wg sync.WaitGroup
	total := 0
	for range 3 {
		wg.Go(func() {
			cmd := exec.Command(os.Args[0], "-test.run=^TestChild$", "-test.v")
			cmd.Env = append(os.Environ(), childEnv+"="+path+" "+s.url)
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Errorf("%v\n%s", err, out)
				return
			}
			_, after, _ := strings.Cut(string(out), "paid=")
			n := 0
			if _, err := fmt.Sscan(after, &n); err != nil {
				t.Errorf("%v in %s", err, out)
			}
			mu.Lock()
			defer mu.Unlock()
			total += n
		})
	}
	wg.Wait()
	if total != 60 || s.distinct() != 60 {
		t.Errorf("%d paid, %d signed, want 60", total, s.distinct())
	}
	p := newPayer(t, perDay("$0.03"), inFile(path))
	if got := today(t, p); got != "$0.00" {
		t.Errorf("%s left", got)
	}
}
