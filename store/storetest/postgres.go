// Package storetest gives tests a real PostgreSQL: the server that FARTHING_POSTGRES names (a URL whose user may make
// schemas), or one of their own in a temporary folder, reached by a socket that is in it. A test that finds neither is
// skipped and says so, or fails where FARTHING_CI is 1.
package storetest

import (
	"context"
	"crypto/rand"
	"database/sql"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
)

// startTimeout is how long a server may take to answer: it may have to recover first, on a busy machine.
const startTimeout = time.Minute

// shared is the server of all tests of a process. It ends with the process.
var shared = sync.OnceValues(func() (*Server, error) {
	if base := os.Getenv("FARTHING_POSTGRES"); base != "" {
		return &Server{base: base}, nil
	}
	// Databases of tests need not outlive the machine; they do outlive the server's processes.
	return start("fsync=off")
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
type Server struct {
	base   string // URL of the database that is always there
	folder string
	bin    string
	args   []string
	as     *syscall.SysProcAttr
	cmd    *exec.Cmd
	pipe   *os.File // closed, it ends the server
}

// Start starts a server for this test alone, with settings such as "fsync=on" (which it has unless told otherwise).
func Start(t testing.TB, settings ...string) *Server {
	t.Helper()
	s, err := start(settings...)
	if err != nil {
		missing(t, err)
	}
	t.Cleanup(func() {
		_ = s.pipe.Close()
		_ = s.cmd.Wait()
	})
	return s
}

func start(settings ...string) (_ *Server, err error) {
	s := &Server{as: &syscall.SysProcAttr{}}
	if s.bin, err = programs(); err != nil {
		return nil, err
	}
	if s.folder, err = os.MkdirTemp("", "farthing-pg-"); err != nil {
		return nil, err
	}
	if os.Geteuid() == 0 { // the server refuses to be root
		if err := s.beNobody(); err != nil {
			return nil, err
		}
	}
	data := filepath.Join(s.folder, "data")
	initdb := exec.Command(filepath.Join(s.bin, "initdb"), "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-N")
	initdb.SysProcAttr, initdb.Dir = s.as, s.folder
	if out, err := initdb.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("initdb: %w: %s", err, out)
	}
	s.args = []string{"-D", data, "-k", s.folder, "-c", "listen_addresses=", "-c", "max_connections=400"}
	for _, setting := range settings {
		s.args = append(s.args, "-c", setting)
	}
	s.base = "postgres://postgres@/postgres?host=" + url.QueryEscape(s.folder)
	return s, s.run()
}

// programs finds the folder with the server's programs: on the path, or where Debian has them.
func programs() (string, error) {
	if path, err := exec.LookPath("initdb"); err == nil {
		return filepath.Dir(path), nil
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if len(found) == 0 {
		return "", fmt.Errorf("initdb is neither on the path nor in /usr/lib/postgresql")
	}
	return filepath.Dir(found[len(found)-1]), nil
}

func (s *Server) beNobody() error {
	u, err := user.Lookup("postgres")
	if err != nil {
		return fmt.Errorf("a user for the server: %w", err)
	}
	uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
	if err1 != nil || err2 != nil {
		return fmt.Errorf("user postgres has no numbers on %s", runtime.GOOS)
	}
	s.as.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	return os.Chown(s.folder, int(uid), int(gid))
}

// run starts the server and waits until it answers. A shell stands between: it ends the server and removes the folder when
// its input ends, so that both are gone with the process of the test, however that ends.
func (s *Server) run() error {
	in, pipe, err := os.Pipe()
	if err != nil {
		return err
	}
	defer in.Close()
	log, err := os.OpenFile(filepath.Join(s.folder, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o666)
	if err != nil {
		return err
	}
	defer log.Close()
	const guard = `folder=$1; shift; "$@" & server=$!; echo $server > "$folder/pid"
		read -r again; [ "$again" = leave ] || { kill -QUIT $server 2>/dev/null; wait $server; rm -rf "$folder"; }`
	args := append([]string{"-c", guard, "sh", s.folder, filepath.Join(s.bin, "postgres")}, s.args...)
	s.cmd = exec.Command("sh", args...)
	s.cmd.SysProcAttr, s.cmd.Dir, s.cmd.Stdin, s.cmd.Stdout, s.cmd.Stderr = s.as, s.folder, in, log, log
	s.pipe = pipe
	if err := s.cmd.Start(); err != nil {
		return err
	}
	db, err := sql.Open("pgx", s.base)
	if err != nil {
		return err
	}
	defer db.Close()
	for deadline := time.Now().Add(startTimeout); ; time.Sleep(20 * time.Millisecond) {
		if err = db.Ping(); err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			text, _ := os.ReadFile(log.Name())
			return fmt.Errorf("server does not answer: %w\n%s", err, text)
		}
	}
}

// Kill ends the server's first process at once, as a machine without memory would; those it had started follow.
func (s *Server) Kill() error {
	text, err := os.ReadFile(filepath.Join(s.folder, "data", "postmaster.pid"))
	if err != nil {
		return err
	}
	line, _, _ := strings.Cut(string(text), "\n")
	pid, err := strconv.Atoi(line)
	if err != nil {
		return err
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return err
	}
	if _, err := s.pipe.WriteString("leave\n"); err != nil { // the folder stays
		return err
	}
	_ = s.pipe.Close()
	return s.cmd.Wait()
}

// Restart starts a server again that was killed, and returns when it has recovered.
func (s *Server) Restart() error {
	// A server does not start beside processes of one that is gone; they end by themselves.
	var err error
	for range 20 {
		_ = os.Remove(filepath.Join(s.folder, "data", "postmaster.pid"))
		if err = s.run(); err == nil {
			return nil
		}
	}
	return err
}

// Database returns the URL of a new, empty database, which is dropped when the test is over. It is a schema in the server's
// one database, since making and dropping those takes a second.
func (s *Server) Database(t testing.TB) string {
	t.Helper()
	name := "farthing_" + strings.ToLower(rand.Text())
	s.exec(t, "CREATE SCHEMA "+name)
	t.Cleanup(func() { s.exec(t, "DROP SCHEMA "+name+" CASCADE") })
	u, err := url.Parse(s.base)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	q.Set("search_path", name)
	u.RawQuery = q.Encode()
	return u.String()
}

func (s *Server) exec(t testing.TB, query string) {
	t.Helper()
	db, err := sql.Open("pgx", s.base)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(context.Background(), query); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}
