package main

import (
	"fmt"
	"time"

	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/paywall"
	"github.com/farthing402/farthing/purchase"
)

type refundCmd struct {
	sellerFlags
	Purchase string `arg:"" help:"Id of the purchase, p_…: it is in the gate's lines, the upstream's Farthing-Purchase header and the buyer's receipt."`
	Amount   string `help:"Give back only so much, such as '$0.0002'; default all that was charged." placeholder:"SUM"`
	AsCredit bool   `name:"as-credit" help:"Keep it for the buyer's next purchase from you; nothing moves on a chain."`
	Reason   string `help:"For the records, and for the buyer." placeholder:"TEXT"`
}

// Help says what a refund is.
func (refundCmd) Help() string {
	return "A purchase is refunded once. A transfer is answered by one from your key (you pay its gas; --rpc-url names the node), " +
		"a guarantee by your signature that it is worth less, and once its cycle is cleared by a guarantee from you, " +
		"which your collateral or what you earn in the open cycle has to cover; a call by going back into its bundle. " +
		"The gate may be running: both work on the same book."
}

func (c *refundCmd) Run(r *run) error {
	c.pays = true
	s, p, err := c.find(r, c.Purchase)
	if err != nil {
		return err
	}
	defer s.Close()
	how := paywall.Return{Credit: c.AsCredit, Reason: c.Reason}
	if c.Amount != "" {
		sum, err := money.ParseMoney(c.Amount)
		if err != nil {
			return err
		}
		if how.Amount, err = sum.In(s.Paywall.Token(p).Asset()); err != nil {
			return misuse("%s: %v", c.Amount, err)
		}
	}
	if r.cli.DryRun {
		return r.emit(map[string]any{"purchase": p.ID, "state": p.State, "charged": p.Charged}, "purchase %s is %s and was charged %s\n",
			p.ID, p.State, s.Paywall.Show(p.Charged, p))
	}
	refund, err := s.Paywall.Refund(r.ctx, p.ID, how)
	if err != nil {
		return err
	}
	what := s.Paywall.Show(refund.Amount, p)
	if refund.Calls > 0 && refund.Amount.IsZero() {
		what = fmt.Sprintf("%d of its bundle", refund.Calls)
	}
	result := map[string]any{"purchase": p.ID, "kind": refund.Kind, "amount": refund.Amount, "calls": refund.Calls, "state": refund.State}
	if !refund.Transaction.IsZero() {
		result["transaction"] = refund.Transaction
	}
	if refund, err = c.wait(r, s, refund); err != nil {
		return err
	}
	result["state"] = refund.State
	if !refund.Transaction.IsZero() {
		result["transaction"] = refund.Transaction
	}
	switch refund.State {
	case purchase.Failed:
		return fail("refund_refused", "%s of purchase %s did not get back to %s: %s", what, p.ID, p.Payer, refund.Reason)
	case purchase.Queued:
		r.say("note     it is written down and not through; the gate goes on with it, and so does this command when it is run again")
	}
	return r.emit(result, "refunded %s of purchase %s to %s by %s (%s)\n", what, p.ID, p.Payer.Short(), refund.Kind, refund.State)
}

// refundWait is how long the command looks whether a transfer has arrived.
const refundWait = 30 * time.Second

// wait asks again until a refund is through, or for as long as people wait.
func (c *refundCmd) wait(r *run, s *counter, refund purchase.Refund) (purchase.Refund, error) {
	for deadline := time.Now().Add(refundWait); refund.State == purchase.Queued && time.Now().Before(deadline); {
		select {
		case <-r.ctx.Done():
			return refund, r.ctx.Err()
		case <-time.After(500 * time.Millisecond):
		}
		var err error
		next, err := s.Paywall.Refunding(r.ctx, refund.Purchase)
		if err != nil {
			r.say("note     %v", err)
			return refund, nil
		}
		refund = next
	}
	return refund, nil
}

type chargeCmd struct {
	sellerFlags
	Purchase string `arg:"" help:"Id of a purchase that was answered 202, p_…"`
	Units    uint64 `help:"Charge for so many units; default what was signed." placeholder:"N"`
	Stage    string `help:"Say that a stage is done; the purchase stays open." placeholder:"NAME"`
	Void     bool   `help:"Let it go: nothing is charged but the stages that were reached."`
	Reason   string `help:"Why it is let go." default:"job_failed"`
}

// Help says what a job is.
func (chargeCmd) Help() string {
	return "A request that your server answered with 202 stays open until it is charged or let go by its purchase's id, " +
		"or until its time (job: in gate.yaml) is over. The gate may be running: both work on the same book."
}

func (c *chargeCmd) Run(r *run) error {
	if c.Void && (c.Units > 0 || c.Stage != "") || c.Units > 0 && c.Stage != "" {
		return misuse("--void, --units and --stage exclude each other")
	}
	s, p, err := c.find(r, c.Purchase)
	if err != nil {
		return err
	}
	defer s.Close()
	if r.cli.DryRun {
		return r.emit(map[string]any{"purchase": p.ID, "state": p.State, "signed": p.Cap}, "purchase %s is %s; %s was signed\n",
			p.ID, p.State, s.Paywall.Show(p.Cap, p))
	}
	switch {
	case c.Stage != "":
		if err := s.Paywall.Reach(r.ctx, p.ID, c.Stage); err != nil {
			return err
		}
		return r.emit(map[string]any{"purchase": p.ID, "stage": c.Stage}, "stage %s of purchase %s is done\n", c.Stage, p.ID)
	case c.Void:
		p, err = s.Paywall.Cancel(r.ctx, p.ID, c.Reason)
	default:
		p, err = s.Paywall.Complete(r.ctx, p.ID, c.Units)
	}
	if err != nil {
		return err
	}
	result := map[string]any{"purchase": p.ID, "state": p.State, "charged": p.Charged}
	if !p.Transaction.IsZero() {
		result["transaction"] = p.Transaction
	}
	return r.emit(result, "purchase %s is %s, charged %s\n", p.ID, p.State, s.Paywall.Show(p.Charged, p))
}

// find opens the seller's book beside a gate that may be running, and looks a purchase up.
func (c *sellerFlags) find(r *run, id string) (*counter, purchase.Purchase, error) {
	var file gateFile
	var err error
	if c.Config != "" {
		if file, err = c.load(r); err != nil {
			return nil, purchase.Purchase{}, err
		}
	}
	if file, err = c.above(r, file); err != nil {
		return nil, purchase.Purchase{}, err
	}
	c.Shared = true // the gate's purchases are not ours to end
	s, err := c.open(r, file)
	if err != nil {
		return nil, purchase.Purchase{}, err
	}
	p, err := s.Paywall.Purchase(r.ctx, id)
	if err != nil {
		s.Close()
	}
	return s, p, err
}
