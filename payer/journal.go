package payer

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
)

const (
	// reserveLease is how long a reservation counts for which nothing was signed: whoever made it may have crashed.
	reserveLease = 2 * time.Minute
	// signTimeout is how long a signer may take. It ends well before the reservation does.
	signTimeout = time.Minute
	// paymentKept is how long the signature of a finished purchase is kept, for a lost answer.
	paymentKept = 7 * 24 * time.Hour
	// remembered is how many finished purchases a journal in memory keeps.
	remembered = 4096
	// compactFrom is how many outdated lines make a journal worth writing anew.
	compactFrom = 256
	lineMax     = 1 << 20
)

// journal is what a payer has written down: one JSON line per change of a purchase, the whole purchase in each. Several
// processes may share one file: whoever decides about a budget holds the file's lock, and has read what the others wrote.
type journal struct {
	path   string // empty: in memory
	limits limits
	now    func() time.Time
	log    *slog.Logger

	mu     sync.Mutex
	lock   *os.File // guarded by mu
	file   *os.File // guarded by mu
	read   int64    // guarded by mu; so far the file is in the sums
	broken error    // guarded by mu; set once the file cannot be trusted any more

	sums    map[string]share           // guarded by mu; by purchase: what it adds to the sums
	open    map[string]row             // guarded by mu; reserved and sent
	done    []row                      // guarded by mu; finished ones, if in memory
	payees  map[string]pin             // guarded by mu; by seller and network, and by way besides
	bundles map[string]*held           // guarded by mu; by the purchase that bought it
	named   map[string]row             // guarded by mu; the last one of a name
	bought  map[string]bool            // guarded by mu; what was charged, see [row.resource]
	txs     map[string]map[string]bool // guarded by mu; purchases by transaction
	total   money.Amount               // guarded by mu
	word    money.Amount               // guarded by mu; of the total given back on sellers' words
	perDay  map[int64]money.Amount     // guarded by mu; spent
	wordDay map[int64]money.Amount     // guarded by mu; given back on words

	syncMu sync.Mutex
	synced syncedTo // guarded by syncMu
}

type syncedTo struct {
	file *os.File
	at   int64
}

// share is what a purchase adds to the sums.
type share struct {
	day           int64
	spent, onWord money.Amount
	final         bool
}

// pin is who a seller was paid at.
type pin struct {
	payee evm.Address
	since time.Time
}

func dayOf(t time.Time) int64 { return t.UTC().Unix() / 86400 }

// openJournal reads the journal, mends a last line that a crash tore, and writes the file anew if much of it is outdated.
func openJournal(path string, l limits, now func() time.Time, log *slog.Logger) (*journal, error) {
	j := &journal{path: path, limits: l, now: now, log: log}
	j.forget()
	if path == "" {
		return j, nil
	}
	var err error
	if j.lock, err = os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, errJournal(path, err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.locked(j.compact); err != nil {
		j.close()
		return nil, errJournal(path, err)
	}
	return j, nil
}

func (j *journal) forget() {
	j.read = 0
	j.sums, j.open, j.payees = make(map[string]share), make(map[string]row), make(map[string]pin)
	j.named = make(map[string]row)
	j.bundles, j.bought, j.txs = make(map[string]*held), make(map[string]bool), make(map[string]map[string]bool)
	j.perDay, j.wordDay = make(map[int64]money.Amount), make(map[int64]money.Amount)
	j.total, j.word = money.Amount{}, money.Amount{}
}

// close lets the files go. The caller holds mu.
func (j *journal) close() {
	if j.file != nil {
		_ = j.file.Sync() // whoever waits for it in flush finds the file closed
	}
	for _, f := range []*os.File{j.file, j.lock} {
		if f != nil {
			f.Close()
		}
	}
	j.file, j.lock = nil, nil
	if j.path != "" {
		j.broken = errors.New("closed")
	}
}

// locked runs fn with the file's lock, after reading what other processes wrote. The caller holds mu.
func (j *journal) locked(fn func() error) error {
	if j.broken != nil {
		return j.broken
	}
	if j.path == "" {
		return fn()
	}
	if err := lockFile(j.lock); err != nil {
		return fmt.Errorf("lock: %w", err)
	}
	defer unlockFile(j.lock)
	if err := j.catchUp(); err != nil {
		return err
	}
	return fn()
}

// catchUp reads what was written since. A journal that another process wrote anew is read from its start.
func (j *journal) catchUp() error {
	onDisk, err := os.Stat(j.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if j.file != nil {
		if ours, err := j.file.Stat(); err != nil || onDisk == nil || !os.SameFile(ours, onDisk) {
			j.file.Close()
			j.file = nil
		}
	}
	if j.file == nil {
		if j.file, err = os.OpenFile(j.path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600); err != nil {
			return err
		}
		j.forget()
		if onDisk == nil {
			if err := syncFolder(j.path); err != nil {
				return err
			}
		}
	}
	info, err := j.file.Stat()
	switch {
	case err != nil:
		return err
	case info.Mode().Perm()&0o077 != 0:
		return fmt.Errorf("others may read it (mode %v): it holds signed payments; chmod 600", info.Mode().Perm())
	case info.Size() < j.read:
		return errors.New("it became shorter while it was open")
	case info.Size() == j.read:
		return nil
	}
	return j.load(info.Size())
}

// load reads from j.read to size. A last line without its end was torn by a crash before its payment left, or its change
// became known: it never counted, and is cut off.
func (j *journal) load(size int64) error {
	in := bufio.NewReaderSize(io.NewSectionReader(j.file, j.read, size-j.read), 64<<10)
	for {
		line, err := in.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			if len(line) == 0 {
				return nil
			}
			j.log.Warn("journal's last line was torn and is cut off", "journal", j.path, "bytes", len(line))
			return j.file.Truncate(j.read)
		}
		if err != nil {
			return err
		}
		var r row
		if err := json.Unmarshal(line, &r); err != nil || r.ID == "" {
			return fmt.Errorf("line at byte %d is not a purchase", j.read)
		}
		j.apply(r)
		j.read += int64(len(line))
	}
}

// apply puts a row into the sums, in place of what its id had there.
func (j *journal) apply(r row) {
	old, known := j.sums[r.ID]
	if known {
		j.unsum(old)
	}
	s := share{day: dayOf(r.At), spent: r.counted(), onWord: r.believed(), final: r.State == Charged || r.State == Void}
	j.sums[r.ID] = s
	j.sum(s)
	switch {
	case !s.final:
		j.open[r.ID] = r
	default:
		delete(j.open, r.ID)
		if j.path == "" {
			if known && old.final { // its seller has said something else meanwhile
				j.done = slices.DeleteFunc(j.done, func(d row) bool { return d.ID == r.ID })
			}
			j.done = append(j.done, r)
			if len(j.done) > remembered {
				j.done = j.done[len(j.done)-remembered:]
			}
		}
	}
	j.applyBundle(r)
	if r.Name != "" {
		j.named[r.Name] = r
	}
	if r.State == Charged {
		j.bought[r.resource()] = true
	}
	if r.Tx != "" {
		if j.txs[r.Tx] == nil {
			j.txs[r.Tx] = make(map[string]bool)
		}
		j.txs[r.Tx][r.ID] = true
	}
	if r.Digest.IsZero() || r.Seller == "" { // nothing was signed, or for nobody who sells
		return
	}
	for _, key := range []string{r.Seller + " " + r.Network, r.Seller + " " + r.Network + " " + r.scheme()} {
		if p, ok := j.payees[key]; !ok || p.payee != r.Payee && !r.At.Before(p.since) {
			j.payees[key] = pin{r.Payee, r.At}
		}
	}
}

// resource names what was bought, and by whom.
func (r row) resource() string { return r.Payer.Lower() + " " + r.Method + " " + r.URL }

// hasBought reports whether an address paid for a resource before.
func (j *journal) hasBought(r row) (yes bool, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	err = j.locked(func() error { yes = j.bought[r.resource()]; return nil })
	return yes, err
}

// sharesTransaction reports whether another purchase's receipt names the transaction of this one's.
func (j *journal) sharesTransaction(r row) (yes bool, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	err = j.locked(func() error {
		for id := range j.txs[r.Tx] {
			yes = yes || id != r.ID
		}
		return nil
	})
	return yes, err
}

func (j *journal) sum(s share) {
	j.total, j.word = plus(j.total, s.spent), plus(j.word, s.onWord)
	j.perDay[s.day], j.wordDay[s.day] = plus(j.perDay[s.day], s.spent), plus(j.wordDay[s.day], s.onWord)
}

func (j *journal) unsum(s share) {
	j.total, j.word = less(j.total, s.spent), less(j.word, s.onWord)
	j.perDay[s.day], j.wordDay[s.day] = less(j.perDay[s.day], s.spent), less(j.wordDay[s.day], s.onWord)
}

// plus stops at the largest sum there is, which no budget allows.
func plus(a, b money.Amount) money.Amount {
	if s, ok := a.Add(b); ok {
		return s
	}
	most, _ := money.AmountFromBytes(bytes.Repeat([]byte{0xff}, 32))
	return most
}

// expire lets go of reservations for which nothing was signed in time.
func (j *journal) expire(now time.Time) {
	for id, r := range j.open {
		if r.State == Reserved && now.Sub(r.At) > reserveLease {
			j.unsum(j.sums[id])
			delete(j.sums, id)
			delete(j.open, id)
			if h, ok := j.bundles[r.Draw]; ok {
				delete(h.draws, id)
			}
			delete(j.bundles, id)
			if j.named[r.Name].ID == id {
				delete(j.named, r.Name)
			}
		}
	}
}

// errDrawnDry is the error of a draw on a bundle that others have used up meanwhile.
var errDrawnDry = errors.New("nothing is left of the bundle")

// reserve sets a purchase's budget aside, or returns an [*overBudget]. anyway is the owner's leave to pass it.
func (j *journal) reserve(r row, anyway bool) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.locked(func() error {
		j.expire(j.now())
		if err := j.free(r); err != nil {
			return err
		}
		if !anyway {
			if err := j.within(r); err != nil {
				return err
			}
		}
		return j.append(r)
	})
}

// free reports whether a call of the bundle is left that a row would draw from, and whether nobody else is buying the
// bundle that it would buy.
func (j *journal) free(r row) error {
	if h, ok := j.bundles[r.Draw]; ok && h.left() == 0 {
		return errDrawnDry
	}
	if r.Bundle == nil {
		return nil
	}
	for id, h := range j.bundles {
		open := h.row.State == Reserved || h.row.State == Sent
		if b := h.row.Bundle; id != r.ID && open && b != nil && b.Of == r.Bundle.Of {
			return &beingBought{h.row}
		}
	}
	return nil
}

// beingBought is the error of buying a bundle while it is not known whether another purchase has bought it.
type beingBought struct{ by row }

func (*beingBought) Error() string { return "a bundle of this is being bought" }

// within reports whether a purchase keeps to the budget.
func (j *journal) within(r row) error {
	asked := r.promised()
	if j.limits.call.Less(asked) {
		return &overBudget{perCall, j.limits.call}
	}
	left := j.left(dayOf(r.At))
	if left.day != nil && left.day.Less(asked) {
		return &overBudget{forDay, *left.day}
	}
	if left.total != nil && left.total.Less(asked) {
		return &overBudget{inTotal, *left.total}
	}
	return nil
}

type remaining struct{ day, total *money.Amount }

// left returns what the limits leave; nil where there is none. What was given back on words alone counts as spent once it
// comes to more than the limit itself.
func (j *journal) left(day int64) (r remaining) {
	if l := j.limits.day; l != nil {
		d := less(*l, plus(j.perDay[day], less(j.wordDay[day], *l)))
		r.day = &d
	}
	if l := j.limits.total; l != nil {
		t := less(*l, plus(j.total, less(j.word, *l)))
		r.total = &t
	}
	return r
}

// record writes a change down. When it returns nil and the change is to be durable, it is on disk. One that is lost in a
// crash leaves the purchase as it was, and more counted as spent than was.
func (j *journal) record(r row, durable bool) error {
	j.mu.Lock()
	err := j.locked(func() error { return j.append(r) })
	file, at := j.file, j.read
	j.mu.Unlock()
	if err != nil || j.path == "" || !durable {
		return err
	}
	return j.flush(file, at)
}

// flush makes what is written up to at durable. Those who wait for the disk together wait for it once.
func (j *journal) flush(file *os.File, at int64) error {
	j.syncMu.Lock()
	defer j.syncMu.Unlock()
	if j.synced.file == file && j.synced.at >= at {
		return nil
	}
	info, err := file.Stat()
	if err == nil {
		err = file.Sync()
	}
	switch {
	case errors.Is(err, os.ErrClosed):
		// Another process wrote the journal anew, this line included, and made it durable before it took its place.
		return nil
	case err != nil:
		// After a failed flush nobody knows what the disk has.
		j.mu.Lock()
		j.broken = err
		j.mu.Unlock()
		return err
	}
	j.synced = syncedTo{file, info.Size()}
	return nil
}

// append writes a line in one piece, or none. The caller holds both locks.
func (j *journal) append(r row) error {
	if j.path != "" {
		line, err := json.Marshal(r)
		if err != nil {
			return err
		}
		if len(line) >= lineMax {
			return fmt.Errorf("purchase of %d bytes is too large to keep", len(line))
		}
		line = append(line, '\n')
		if _, err := j.file.Write(line); err != nil {
			if cut := j.file.Truncate(j.read); cut != nil {
				j.broken = errors.Join(err, cut)
			}
			return err
		}
		j.read += int64(len(line))
	}
	j.apply(r)
	j.forgetDays()
	return nil
}

// forgetDays drops what no budget asks for any more, and bundles that are long over: they stay in the total and in the
// file.
func (j *journal) forgetDays() {
	today := dayOf(j.now())
	if len(j.perDay) < 3 {
		return
	}
	days := len(j.perDay)
	for day := range j.perDay {
		if day < today-1 {
			delete(j.perDay, day)
			delete(j.wordDay, day)
		}
	}
	if len(j.perDay) == days {
		return
	}
	for id, h := range j.bundles {
		if b := h.row.Bundle; b != nil && !b.Expires.IsZero() && dayOf(b.Expires) < today-1 {
			delete(j.bundles, id)
		}
	}
	for id, s := range j.sums {
		if s.final && s.day < today-1 {
			delete(j.sums, id)
		}
	}
}

// compact writes the journal anew with one line for each purchase, if enough lines are outdated. It writes beside it and
// renames, so a crash leaves the old or the new one.
func (j *journal) compact() error {
	rows, lines, err := j.all()
	if err != nil || lines-len(rows) < compactFrom {
		return err
	}
	now := j.now()
	tmp, err := os.OpenFile(j.path+".new", os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer os.Remove(j.path + ".new")
	defer tmp.Close()
	out := bufio.NewWriter(tmp)
	for _, r := range rows {
		if r.State == Reserved && now.Sub(r.At) > reserveLease {
			continue
		}
		if r.DoneAt != nil && now.Sub(*r.DoneAt) > paymentKept {
			r.Payment, r.Body, r.BodyGone = "", nil, r.BodyGone || len(r.Body) > 0
		}
		line, err := json.Marshal(r)
		if err != nil {
			return err
		}
		if _, err := out.Write(append(line, '\n')); err != nil {
			return err
		}
	}
	if err := errors.Join(out.Flush(), tmp.Sync()); err != nil {
		return err
	}
	if err := os.Rename(j.path+".new", j.path); err != nil {
		return err
	}
	if err := syncFolder(j.path); err != nil {
		return err
	}
	return j.catchUp()
}

// all returns every purchase as it stands, in the order in which they began, and how many lines there are. The caller
// holds both locks.
func (j *journal) all() (rows []row, lines int, err error) {
	if j.path == "" {
		rows = append(rows, j.done...)
		open := slices.Collect(maps.Values(j.open))
		slices.SortFunc(open, func(a, b row) int { return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.ID, b.ID)) })
		return append(rows, open...), len(rows) + len(open), nil
	}
	place := make(map[string]int)
	in := bufio.NewReaderSize(io.NewSectionReader(j.file, 0, j.read), 64<<10)
	for {
		line, err := in.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return rows, lines, nil
		}
		var r row
		if err == nil {
			err = json.Unmarshal(line, &r)
		}
		if err != nil {
			return nil, 0, err
		}
		lines++
		if i, ok := place[r.ID]; ok {
			rows[i] = r
		} else {
			place[r.ID] = len(rows)
			rows = append(rows, r)
		}
	}
}

// rows returns every purchase as it stands.
func (j *journal) rows() (rows []row, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	err = j.locked(func() (err error) { rows, _, err = j.all(); return err })
	return rows, err
}

// find returns a purchase.
func (j *journal) find(id string) (r row, ok bool, err error) {
	rows, err := j.rows()
	for _, candidate := range rows {
		if candidate.ID == id {
			r, ok = candidate, true
		}
	}
	return r, ok, err
}

// payee returns who a seller was paid at before, in the same way if it was.
func (j *journal) payee(seller, network, scheme string) (p pin, ok bool, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	err = j.locked(func() error {
		if p, ok = j.payees[seller+" "+network+" "+scheme]; !ok {
			p, ok = j.payees[seller+" "+network]
		}
		return nil
	})
	return p, ok, err
}

// budget returns what is left now.
func (j *journal) budget() (r remaining, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	now := j.now()
	err = j.locked(func() error { j.expire(now); r = j.left(dayOf(now)); return nil })
	return r, err
}

// syncFolder makes a new name durable.
func syncFolder(path string) error {
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
