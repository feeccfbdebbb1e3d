// Package storetest gives tests a real PostgreSQL: the server that FARTHING_POSTGRES names (a URL whose user may make
// schemas), or one of their own in a temporary folder, reached by a socket that is in it. A test that finds neither is
// skipped and says so, or fails where FARTHING_CI is 1.
package storetest

import (
	"os"
	"sync"
	"testing"

	"github.com/farthing402/farthing/internal/postgres"
)

// shared is the server of all tests of a process. It ends with the process.
var shared = sync.OnceValues(func() (*Server, error) {
	if base := os.Getenv("FARTHING_POSTGRES"); base != "" {
		return &Server{postgres.At(base)}, nil
	}
	// Databases of tests need not outlive the machine; they do outlive the server's processes.
	s, err := postgres.Start("", "fsync=off")
	return &Server{s}, err
})

// Database returns the URL of a new, empty database, which is dropped when the test is over.
func Database(t testing.TB) string {
	t.Helper()
	s, err := shared()
	if err != nil {
		missing(t, err)
	}
	return s.Database(t)
}

func missing(t testing.TB, err error) {
	t.Helper()
	if os.Getenv("FARTHING_CI") == "1" {
		t.Fatalf("PostgreSQL: %v", err)
	}
	t.Skipf("no PostgreSQL (set FARTHING_POSTGRES to the URL of one, or install it): %v", err)
}

// Server is a PostgreSQL that can be killed. Make one with [Start].
type Server struct{ *postgres.Server }

// Start starts a server for this test alone, with settings such as "fsync=on" (which it has unless told otherwise).
func Start(t testing.TB, settings ...string) *Server {
	t.Helper()
	s, err := postgres.Start("", settings...)
	if err != nil {
		missing(t, err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return &Server{s}
}

// Database returns the URL of a new, empty database, which is dropped when the test is over.
func (s *Server) Database(t testing.TB) string {
	t.Helper()
	url, drop, err := s.Create(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := drop(); err != nil {
			t.Error(err)
		}
	})
	return url
}
