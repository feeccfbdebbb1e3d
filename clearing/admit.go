package clearing

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/money"
)

// amountBits is the width in which the contracts keep amounts.
const amountBits = 112

// Request asks for a guarantee to be admitted and certified.
type Request struct {
	Signed guarantee.Signed
	Batch  bool // a batch certificate will do, which is cheaper to make and as good
	// Cover names guarantees of the cycle that is open, by digest, which are owed to the payer and may back what its
	// collateral does not, if Signed is a refund (guarantee.RefundID). At most [CoverMax].
	Cover []evm.Hash
}

// Result is the answer to a [Request]. If Err is nil, Certificate promises what Digest names, in Cycle. If Err is not
// nil but Digest is set, the guarantee was found good as far as its signature goes.
type Result struct {
	Certificate guarantee.Certificate
	Digest      evm.Hash
	Cycle       CycleRef
	Replayed    bool // the guarantee was admitted before; the certificate is of the cycle it was admitted to
	Err         error
}

// admission is a request on its way through a group.
type admission struct {
	Request
	now      time.Time
	digest   evm.Hash
	likely   Guarantee // as it will be admitted if its cycle is the one that the last guarantee got into
	admitted Guarantee
	replayed bool
	batch    *batch // set if the request asked for one and was admitted
	place    int    // in the batch
	err      error
}

// Admit admits guarantees against their payers' collateral and certifies them. Results are in the order of requests,
// and no request's fault touches another. The checks run in this order, and the first that fails gives the error:
//
//  1. amount ([ErrAmount]), parties ([ErrParties])
//  2. version, form and signature (guarantee.ErrVersion, guarantee.ErrForm, guarantee.ErrSignature)
//  3. whether the request id was used: the same content again is answered with an equally good certificate, marked
//     as replayed, whatever has become of the guarantee since (a certificate is a fact: a guarantee that a note has
//     let go, or whose cycle is over, is still the one that was admitted); other content is [ErrConflict]
//  4. timestamp (guarantee.ErrStale, guarantee.ErrFuture)
//  5. the policy, if there is one (guarantee.ErrPolicy, [ErrRegistry])
//  6. whether payer and payee may take part ([ErrSuspended], [ErrNotMember])
//  7. asset and cycle ([ErrAsset]); a cycle that is frozen takes nothing, the next one does
//  8. the payer's limit per cycle ([ErrLimit]); what waits for a validator counts in every cycle
//  9. collateral, or of a refund the claims that it names ([ErrExposure])
//
// A guarantee is on disk before its certificate is made. An error that matches [ErrUnfinished] leaves open whether the
// guarantee was admitted; the same request again is safe and finds out. One that matches [ErrNotAdmitted] says it was not.
// Cancelling ctx does not undo what is being written.
func (h *House) Admit(ctx context.Context, reqs []Request, now time.Time) []Result {
	h.admitting.Add(1)
	defer h.admitting.Add(-1)
	items := make([]*admission, len(reqs))
	for i, r := range reqs {
		items[i] = &admission{Request: r, now: now}
	}
	cycle := h.lastCycle.Load()
	parallel(len(items), func(i int) {
		it := items[i]
		it.digest, it.err = h.verify(it.Signed)
		if it.err == nil && cycle != nil && cycle.Asset == it.Signed.Claims.Asset {
			it.likely = h.promise(it, *cycle)
		}
	})

	shards := make([][]int, len(h.admits)) // of what is good so far
	for i, it := range items {
		if it.err == nil {
			it.err = ErrUnfinished // until a run says otherwise
			payer := it.Signed.Claims.Payer
			shard := int(payer[len(payer)-1]) % len(shards)
			shards[shard] = append(shards[shard], i)
		}
	}
	var wg sync.WaitGroup
	for n, shard := range shards {
		if len(shard) == 0 {
			continue
		}
		wg.Go(func() { h.admitShard(ctx, &h.admits[n], items, shard) })
	}
	wg.Wait()

	results := make([]Result, len(items))
	parallel(len(items), func(i int) { results[i] = h.certify(items[i]) })
	return results
}

// admitShard has the items at some places admitted, as many at once as one transaction takes.
func (h *House) admitShard(ctx context.Context, shard *gather[*admission], items []*admission, places []int) {
	for part := range slices.Chunk(places, h.BatchMax) {
		group := make([]*admission, len(part))
		for k, i := range part {
			group[k] = items[i]
		}
		err := notCancelled(ctx)
		if err == nil {
			err = shard.do(ctx, group)
		}
		if err != nil {
			for _, i := range part { // a run may still be writing to the others
				items[i] = &admission{digest: items[i].digest, err: err}
			}
		}
	}
}

// verify makes the checks that need no book.
func (h *House) verify(s guarantee.Signed) (evm.Hash, error) {
	c := s.Claims
	if c.Amount.IsZero() || c.Amount.BitLen() > amountBits {
		return evm.Hash{}, ErrAmount
	}
	if c.Payer == c.Payee || c.Payer.IsZero() || c.Payee.IsZero() {
		return evm.Hash{}, ErrParties
	}
	if c.Policy != nil && len(h.Registries) == 0 {
		return evm.Hash{}, fmt.Errorf("claims of version %d: %w", c.Version(), guarantee.ErrVersion)
	}
	return s.Verify(h.separator, h.Rules)
}

// admitGroup admits a group in one transaction and gives each item its outcome.
func (h *House) admitGroup(ctx context.Context, group []*admission) {
	// A run that is undone and done again starts with clean outcomes, so they are kept here until it holds.
	type outcome struct {
		admitted Guarantee
		replayed bool
		err      error
	}
	outcomes := make([]outcome, len(group))
	err := h.Book.Write(ctx, func(tx Tx) error {
		clear(outcomes)
		v := newKeepingView(tx)
		if err := h.holdFor(v, group); err != nil {
			return err
		}
		wallets, err := h.roster(tx)
		if err != nil {
			return err
		}
		for i, it := range group {
			g, replayed, refused, err := h.admit(v, wallets, it)
			if err != nil {
				return err
			}
			outcomes[i] = outcome{g, replayed, refused}
		}
		return v.flush()
	})
	if err != nil {
		for _, it := range group {
			it.err = fmt.Errorf("admit guarantee %s: %w: %w", it.digest.Short(), ErrUnfinished, err)
		}
		return
	}
	batches := make(map[batchKey]*batch)
	for i, it := range group {
		it.admitted, it.replayed, it.err = outcomes[i].admitted, outcomes[i].replayed, outcomes[i].err
		if it.err != nil {
			it.err = fmt.Errorf("admit guarantee %s: %w", it.digest.Short(), it.err)
			continue
		}
		if last := h.lastCycle.Load(); !it.replayed && (last == nil || *last != it.admitted.Cycle) {
			h.lastCycle.Store(&it.admitted.Cycle)
		}
		if it.Batch {
			key := batchKey{it.admitted.Cycle, it.admitted.Signed.Claims.Version()}
			b := batches[key]
			if b == nil {
				b = &batch{batchKey: key}
				batches[key] = b
			}
			it.batch, it.place = b, len(b.claims)
			b.claims = append(b.claims, h.claims(it.admitted))
		}
	}
}

// holdFor reads what a group is decided by, in the one order: the cycles that would take its guarantees, and the accounts of
// its payers and of those whose claims may back a refund, and which of its guarantees are there.
func (h *House) holdFor(v *view, group []*admission) error {
	accounts, keys := make([]AccountKey, 0, len(group)), make([]guarantee.Key, len(group))
	for i, it := range group {
		c := it.Signed.Claims
		accounts, keys[i] = append(accounts, AccountKey{c.Payer, c.Asset}), c.Key()
		if _, _, err := h.openCycle(v, c.Asset, unix(it.now)); err != nil {
			return err
		}
		for _, digest := range it.cover() {
			g, found, err := v.tx.GuaranteeByDigest(digest)
			if err != nil {
				return err
			}
			if owed := g.Signed.Claims; found && owed.Payee == c.Payer {
				accounts = append(accounts, AccountKey{owed.Payer, owed.Asset})
			}
		}
	}
	if err := v.hold(nil, accounts); err != nil {
		return err
	}
	known, err := v.tx.GuaranteesByKey(keys)
	v.guarantees = make(map[guarantee.Key]Guarantee, len(group))
	maps.Copy(v.guarantees, known)
	return err
}

// admit decides on one guarantee. refused is a rule's word, err the store's.
func (h *House) admit(v *view, wallets map[evm.Address]Wallet, it *admission) (g Guarantee, replayed bool, refused, err error) {
	c := it.Signed.Claims
	old, found := v.guarantees[c.Key()]
	switch {
	case found && old.Digest == it.digest:
		return old, true, nil, nil
	case found:
		return g, false, ErrConflict, nil
	}
	now := unix(it.now)
	if past := uint64(h.Past / time.Second); c.Timestamp < now && now-c.Timestamp > past {
		return g, false, fmt.Errorf("%d seconds old: %w", now-c.Timestamp, guarantee.ErrStale), nil
	}
	if future := uint64(h.Future / time.Second); c.Timestamp > now && c.Timestamp-now > future {
		return g, false, fmt.Errorf("%d seconds ahead: %w", c.Timestamp-now, guarantee.ErrFuture), nil
	}
	if refused := h.checkPolicy(c); refused != nil {
		return g, false, refused, nil
	}
	if refused := h.mayDeal(wallets, c.Payer, c.Payee); refused != nil {
		return g, false, refused, nil
	}
	cycle, isNew, err := h.openCycle(v, c.Asset, now)
	if err != nil {
		return g, false, nil, err
	}
	if cycle.Status != Open {
		return g, false, ErrAsset, nil
	}
	account, err := v.account(c.Payer, c.Asset)
	if err != nil {
		return g, false, nil, err
	}
	if limit, ok := lowerLimit(account.Account, wallets[c.Payer]); ok {
		used, err := v.promised(cycle.Ref, c.Payer)
		if err != nil {
			return g, false, nil, err
		}
		if sum, ok := used.Add(c.Amount); !ok || limit.Less(sum) {
			return g, false, &LimitError{Payer: c.Payer, Asset: c.Asset, Cycle: cycle.Ref, Asked: c.Amount, Used: used, Limit: limit}, nil
		}
	}
	locked, free := c.Amount, account.Headroom()
	var pledges []pledge
	if short, ok := c.Amount.Sub(free); ok && !short.IsZero() {
		var backed money.Amount
		if pledges, backed, err = findCover(v.tx, it, cycle.Ref, short); err != nil {
			return g, false, nil, err
		}
		locked, _ = c.Amount.Sub(backed)
	}
	if account.Balance.Reserve(locked, account.Held()) != nil {
		return g, false, &ExposureError{
			Payer: c.Payer, Asset: c.Asset, Asked: c.Amount, Free: free,
			Deposited: account.Collateral(), InUse: account.Exposure(), Held: account.Held(),
		}, nil
	}
	v.changed(account)
	for _, p := range pledges {
		all, _ := p.claim.Pledged.Add(p.amount) // at most what is payable
		if err := v.tx.PledgeGuarantee(p.claim.Digest, all); err != nil {
			return g, false, nil, err
		}
	}
	if isNew {
		v.putCycle(cycle)
	}
	if g = it.likely; g.Cycle != cycle.Ref {
		g = h.promise(it, cycle.Ref)
	}
	g.Backed, _ = c.Amount.Sub(locked)
	v.guarantees[c.Key()] = g
	return g, false, nil, v.tx.AddGuarantee(g)
}

// promise is the guarantee that an item asks for, in a cycle. Its evidence takes as long as all the rest of a transaction's
// checks, so it is made beforehand where the cycle can be guessed.
func (h *House) promise(it *admission, c CycleRef) Guarantee {
	g := Guarantee{Signed: it.Signed, Digest: it.digest, Cycle: c, Payable: it.Signed.Claims.Amount, At: it.now.UnixMilli()}
	if it.Signed.Claims.Policy != nil {
		g.Validation = &Validation{AskAt: unix(it.now)}
	}
	g.Evidence = h.evidence(g)
	return g
}

// certify makes an admitted item's certificate. It runs in the goroutine of the item's caller, so that certificates are
// made on all cores while the next group is being written.
func (h *House) certify(it *admission) Result {
	r := Result{Digest: it.digest, Err: it.err}
	if r.Err != nil {
		return r
	}
	r.Cycle, r.Replayed = it.admitted.Cycle, it.replayed
	if it.batch != nil {
		r.Certificate, r.Err = it.batch.certificate(h, it.place)
	} else {
		r.Certificate, r.Err = h.Authority.Certify(h.claims(it.admitted))
	}
	if r.Err != nil {
		r.Err = fmt.Errorf("certify guarantee %s: %w", it.digest.Short(), r.Err)
	}
	return r
}

// claims returns the bytes that a guarantee's certificates cover.
func (h *House) claims(g Guarantee) []byte {
	return guarantee.EncodeClaims(h.domainOf(g.Signed.Claims.Version()), g.Cycle.ID(), g.Signed.Claims)
}

func (h *House) domainOf(version uint64) evm.Hash { return h.domains[version-1] }

// batchKey says which members of a group share a signature: those whose certificates name one cycle and one domain.
type batchKey struct {
	cycle   CycleRef
	version uint64
}

// batch is those members. Whoever needs their signature first makes it.
type batch struct {
	batchKey
	claims [][]byte // complete before anybody can ask for a certificate

	once         sync.Once
	certificates []guarantee.Certificate
	err          error
}

func (b *batch) certificate(h *House, place int) (guarantee.Certificate, error) {
	b.once.Do(func() {
		b.certificates, b.err = h.Authority.CertifyBatch(h.domainOf(b.version), b.cycle.ID(), b.claims)
	})
	if b.err != nil {
		return guarantee.Certificate{}, b.err
	}
	return b.certificates[place], nil
}

func compareAccountKeys(a, b AccountKey) int {
	return cmp.Or(slices.Compare(a.Asset[:], b.Asset[:]), slices.Compare(a.Owner[:], b.Owner[:]))
}

// parallel calls f(0) … f(n−1), on all cores if there are several calls to make, and returns when all have.
func parallel(n int, f func(int)) {
	workers := min(n, runtime.GOMAXPROCS(0))
	if workers <= 1 {
		for i := range n {
			f(i)
		}
		return
	}
	var next atomic.Int64
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				f(i)
			}
		})
	}
	wg.Wait()
}

// atLeisure is parallel for work that takes seconds: while guarantees are being admitted it rests between calls, so that
// they do not wait for a processor at each of their steps. A call should take no longer than a fraction of a millisecond.
func (h *House) atLeisure(n int, f func(int)) {
	parallel(n, func(i int) {
		f(i)
		h.giveWay()
	})
}

func (h *House) giveWay() {
	if h.Rest != nil && h.admitting.Load() > 0 {
		h.Rest()
	}
}
