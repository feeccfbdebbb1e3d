package devchain_test

import (
	"os"
	"os/exec"
	"runtime"
	"runtime/pprof"
	"testing"
	"time"

	"github.com/farthing402/farthing/evm/devchain"
)

// TestCloseEndsItsGoroutines runs in a process of its own, where nothing else starts any.
func TestCloseEndsItsGoroutines(t *testing.T) {
	if os.Getenv("DEVCHAIN_TEST_LEAK") == "" {
		t.Parallel()
		child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestCloseEndsItsGoroutines$")
		child.Env = append(os.Environ(), "DEVCHAIN_TEST_LEAK=1")
		if out, err := child.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	once := func() {
		chain, err := devchain.Start(t.Context(), devchain.Config{})
		if err != nil {
			t.Fatal(err)
		}
		if err := chain.Close(); err != nil {
			t.Fatal(err)
		}
	}
	// go-ethereum's cache of senders may start one worker per processor, once per process. A leak of one goroutine per chain
	// comes to more than those.
	before := runtime.NumGoroutine() + runtime.NumCPU()
	rounds := runtime.NumCPU() + 3
	for range rounds {
		once()
	}
	deadline := time.Now().Add(10 * time.Second)
	for runtime.NumGoroutine() > before {
		if time.Now().After(deadline) {
			pprof.Lookup("goroutine").WriteTo(os.Stderr, 1)
			t.Fatalf("%d goroutines more after %d chains", runtime.NumGoroutine()-before, rounds)
		}
		<-time.After(10 * time.Millisecond)
	}
}
