// Package postgres runs a PostgreSQL server of one's own, from the programs that are installed, for as long as a test or a
// measurement lasts; and it makes databases on a server, whoever runs it.
package postgres

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
)

// startTimeout is how long a server may take to answer: it may have to recover first, on a busy machine.
const startTimeout = time.Minute

// Server is a PostgreSQL server. Make one with [At] or [Start].
type Server struct {
	base   string // URL of the database that is always there
	folder string // empty: it is somebody else's
	bin    string
	args   []string
	as     *syscall.SysProcAttr
	cmd    *exec.Cmd
	pipe   *os.File // closed, it ends the server
}

// At is the server at a URL whose user may make schemas.
func At(url string) *Server { return &Server{base: url} }

// Start starts a server with settings such as "fsync=off" (it is on unless told otherwise), in a folder of its own within
// the one given, or within the temporary folder. It is reached by a socket in there, and ends with [Server.Close] or with
// this process, however that ends; its folder goes with it.
func Start(dir string, settings ...string) (_ *Server, err error) {
	s := &Server{as: &syscall.SysProcAttr{}}
	if s.bin, err = programs(); err != nil {
		return nil, err
	}
	if s.folder, err = os.MkdirTemp(dir, "farthing-pg-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = os.RemoveAll(s.folder)
		}
	}()
	if os.Geteuid() == 0 { // the server refuses to be root
		if err := beNobody(s.as, s.folder); err != nil {
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
		return "", errors.New("initdb is neither on the path nor in /usr/lib/postgresql")
	}
	return filepath.Dir(found[len(found)-1]), nil
}

// run starts the server and waits until it answers. A shell stands between: it ends the server and removes the folder when
// its input ends, so that both are gone with this process, however that ends.
func (s *Server) run() error {
	in, pipe, err := os.Pipe()
	if err != nil {
		return err
	}
	defer in.Close()
	log, err := os.OpenFile(filepath.Join(s.folder, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o666)
	if err != nil {
		return errors.Join(err, pipe.Close())
	}
	defer log.Close()
	const guard = `folder=$1; shift; "$@" & server=$!; echo $server > "$folder/pid"
		read -r again; [ "$again" = leave ] || { kill -QUIT $server 2>/dev/null; wait $server; rm -rf "$folder"; }`
	args := append([]string{"-c", guard, "sh", s.folder, filepath.Join(s.bin, "postgres")}, s.args...)
	s.cmd = exec.Command("sh", args...)
	s.cmd.SysProcAttr, s.cmd.Dir, s.cmd.Stdin, s.cmd.Stdout, s.cmd.Stderr = s.as, s.folder, in, log, log
	s.pipe = pipe
	if err := s.cmd.Start(); err != nil {
		return errors.Join(err, pipe.Close())
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

// Close ends a server that was started here.
func (s *Server) Close() error {
	if s.cmd == nil {
		return nil
	}
	return errors.Join(s.pipe.Close(), s.cmd.Wait())
}

// Kill ends the server's first process at once, as a machine without memory would; those it had started follow.
func (s *Server) Kill() error {
	pid, err := s.pid()
	if err != nil {
		return err
	}
	process, err := os.FindProcess(pid)
	if err != nil {
		return err
	}
	if err := process.Kill(); err != nil {
		return err
	}
	if _, err := s.pipe.WriteString("leave\n"); err != nil { // the folder stays
		return err
	}
	return s.Close()
}

// pid is that of the server's first process.
func (s *Server) pid() (int, error) {
	text, err := os.ReadFile(filepath.Join(s.folder, "data", "postmaster.pid"))
	if err != nil {
		return 0, err
	}
	line, _, _ := strings.Cut(string(text), "\n")
	return strconv.Atoi(line)
}

// Restart starts a server again that was killed, and returns when it has recovered. A server does not start beside processes
// of one that is gone, which end by themselves.
func (s *Server) Restart() error {
	data := filepath.Join(s.folder, "data")
	for deadline := time.Now().Add(startTimeout); ; time.Sleep(20 * time.Millisecond) {
		left, err := processesIn(data)
		if err != nil {
			return err
		}
		if left == 0 {
			break
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d processes of the killed server do not end", left)
		}
	}
	// What it locked names a process that is gone, or that nobody has buried.
	for _, lock := range []string{filepath.Join(data, "postmaster.pid"), filepath.Join(s.folder, ".s.PGSQL.5432.lock")} {
		if err := os.Remove(lock); err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	return s.run()
}

// processesIn counts the processes whose working folder is dir, as the server's is its data.
func processesIn(dir string) (n int, err error) {
	all, err := filepath.Glob("/proc/[0-9]*/cwd")
	for _, cwd := range all {
		if at, err := os.Readlink(cwd); err == nil && at == dir {
			n++
		}
	}
	return n, err
}

// Create makes an empty database, and returns its URL and how it is dropped. It is a schema in the server's one database,
// since making and dropping those takes a second.
func (s *Server) Create(ctx context.Context) (name string, drop func() error, err error) {
	schema := "farthing_" + strings.ToLower(rand.Text())
	u, err := url.Parse(s.base)
	if err != nil {
		return "", nil, err
	}
	if err := s.exec(ctx, "CREATE SCHEMA "+schema); err != nil {
		return "", nil, err
	}
	q := u.Query()
	q.Set("search_path", schema)
	u.RawQuery = q.Encode()
	return u.String(), func() error { return s.exec(context.WithoutCancel(ctx), "DROP SCHEMA "+schema+" CASCADE") }, nil
}

func (s *Server) exec(ctx context.Context, query string) error {
	db, err := sql.Open("pgx", s.base)
	if err != nil {
		return err
	}
	defer db.Close()
	if _, err := db.ExecContext(ctx, query); err != nil {
		return fmt.Errorf("%s: %w", query, err)
	}
	return nil
}

// Processes returns the ids of the server's processes, its first one before the others, or nil where that cannot be found
// out: if somebody else runs it, and on systems without /proc.
func (s *Server) Processes() []int {
	if s.cmd == nil {
		return nil
	}
	first, err := s.pid()
	if err != nil {
		return nil
	}
	all := []int{first}
	others, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, name := range others {
		text, err := os.ReadFile(name)
		if err != nil {
			continue // gone meanwhile
		}
		_, rest, _ := strings.Cut(string(text), ") ") // its state, and then who started it
		fields := strings.Fields(rest)
		if len(fields) > 1 && fields[1] == strconv.Itoa(first) {
			if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name))); err == nil {
				all = append(all, pid)
			}
		}
	}
	return all
}
