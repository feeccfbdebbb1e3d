package store

import (
	"regexp"
	"strconv"
	"strings"
)

// dialect is what one database does in its own way. Statements elsewhere are written for all of them, with ? where a
// value goes.
type dialect struct {
	name       string
	rebind     func(query string) string // ? to the database's own placeholders
	words      []replacement             // of the words of migrations, in this order
	migrating  []string                  // what a migration begins with, so that one process does it
	beginWrite string                    // SQLite: takes the right to write at once, or waits for it
	beginRead  string                    // fixes the snapshot of what follows
	locks      bool                      // writes run side by side, so that what they read must be locked
	duplicate  func(error) bool          // a unique key was there already
	again      func(error) bool          // nothing was written, and the same may well succeed if it is run again
}

type replacement struct {
	pattern *regexp.Regexp
	by      string
}

// schema turns a migration's text into the dialect's own: words are replaced, and lines that end in the name of another
// dialect are left out.
func (d *dialect) schema(text string) string {
	var kept []string
	for line := range strings.Lines(text) {
		if _, only, marked := strings.Cut(strings.TrimSpace(line), "-- only "); !marked || only == d.name {
			kept = append(kept, line)
		}
	}
	text = strings.Join(kept, "")
	for _, r := range d.words {
		text = r.pattern.ReplaceAllString(text, r.by)
	}
	return text
}

// numbered turns ? into $1, $2 and on.
func numbered(query string) string {
	parts := strings.Split(query, "?")
	var b strings.Builder
	for i, part := range parts {
		if i > 0 {
			b.WriteString("$" + strconv.Itoa(i))
		}
		b.WriteString(part)
	}
	return b.String()
}
