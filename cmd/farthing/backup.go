package main

import (
	"errors"
	"io/fs"

	"github.com/farthing402/farthing/store"
)

type backupCmd struct {
	To   string `arg:"" help:"File to write; it must not be there." placeholder:"FILE"`
	Book string `help:"SQLite file to copy: a clearing house's, a gate's or a facilitator's; default house.db in farthing's folder." placeholder:"FILE"`
}

// Help is shown below the flags.
func (*backupCmd) Help() string {
	return `Copies a book as it is at one moment, while the process that has it goes on. Copying the file by other means misses
what stands in the files beside it. A PostgreSQL database is backed up with pg_dump or a base backup: see
docs/operating.md, also for what to do before a copy is used again.`
}

func (c *backupCmd) Run(r *run) (err error) {
	if c.Book == "" {
		if c.Book, err = r.inFolder("house.db"); err != nil {
			return err
		}
	}
	if store.Served(c.Book) {
		return misuse("the database is on a server").hint("pg_dump backs it up; see docs/operating.md")
	}
	err = store.Backup(r.ctx, c.Book, c.To)
	switch {
	case errors.Is(err, fs.ErrExist):
		return misuse("%s is there already", c.To).hint("name a new file")
	case errors.Is(err, fs.ErrNotExist):
		return fail("config_invalid", "%v", err).hint("name the book with --book")
	case err != nil:
		return err
	}
	return r.emit(map[string]string{"book": c.Book, "to": c.To}, "copied      %s to %s\n", c.Book, c.To)
}
