package courier

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/webhook"
)

// Status is whether an endpoint is sent events.
type Status string

// The statuses.
const (
	Enabled  Status = "enabled"
	Failing  Status = "failing"  // is sent events, one at a time; the next that arrives makes it Enabled
	Disabled Status = "disabled" // is sent nothing, and events that happen meanwhile are not kept for it
)

// Endpoint is where somebody wants events.
type Endpoint struct {
	ID           string         // ep_…
	Owner        evm.Address    // a wallet; zero: the operator
	URL          string         // https, unless the house allows others
	Types        []webhook.Type // none: all; the operator's get those of guarantees only if named
	Description  string         // its owner's words
	Status       Status         //
	Reason       string         // why it is failing or disabled
	FailingSince time.Time      // zero unless it is failing
	Secret       webhook.Secret // signs what is sent
	Before       webhook.Secret // the one before, which signs too
	BeforeUntil  time.Time      // until then
	CreatedAt    time.Time      //
}

// State is where a delivery stands.
type State string

// The states.
const (
	Pending   State = "pending"   // waits for its next attempt
	Sending   State = "sending"   // claimed
	Delivered State = "delivered" // the receiver said 2xx
	Failed    State = "failed"    // given up
	Dropped   State = "dropped"   // the chain took its event back before it was delivered
)

// Delivery is one event on its way to one endpoint.
type Delivery struct {
	Event     string // its ID names the delivery within the endpoint
	Type      webhook.Type
	State     State
	Tries     int
	CreatedAt time.Time
	DueAt     time.Time // of the next attempt, while it is pending
	Attempts  []Attempt // only where one delivery is asked for; oldest first
	Body      json.RawMessage
}

// Attempt is one try to deliver. Status is 0 where there was no answer; Trouble says what was wrong, if anything was.
type Attempt struct {
	At      time.Time
	Elapsed time.Duration
	Status  int
	Trouble string
}

// Cursor says how far events have been made into messages: everything before Place in Block.
type Cursor struct {
	Block clearing.Block
	Place uint64
}

// Applied is an event of the chain as the house has applied it.
type Applied struct {
	clearing.Event
	Block clearing.Block
	Place uint64 // in its block
}

// Message is an event for endpoints. Its key is the same whenever it is derived from the same log, so that the book keeps
// it once.
type Message struct {
	Key       string
	Type      webhook.Type
	CreatedAt time.Time
	Data      json.RawMessage
	Block     clearing.Block // that a reorganisation may take it back with; zero: none
	Endpoints []string
}

// Event returns the event that a message is told by. round counts how often the chain has taken the message back: each
// time it happens again it is told by another event.
func (m Message) Event(round int) webhook.Event {
	name := evm.Keccak256(fmt.Appendf(nil, "%d/%s", round, m.Key))
	return webhook.Event{ID: fmt.Sprintf("evt_%x", name[:16]), Type: m.Type, CreatedAt: m.CreatedAt.UTC(), APIVersion: webhook.APIVersion, Data: m.Data}
}

// Withdrawal is the newest request of an owner, remembered for what ends it.
type Withdrawal struct {
	Owner, Asset             evm.Address
	ID                       evm.Hash
	Amount                   money.Amount
	RequestedAt, AvailableAt time.Time
}

// Batch is what one step of deriving writes together.
type Batch struct {
	From, To    Cursor // To equals From where more of the same event follows
	Messages    []Message
	Withdrawals []Withdrawal // each replaces its owner's
	Voids       []string     // IDs of events that the chain took back
	At          time.Time    // deliveries are due at once
}

// Gone is an event whose block the chain took back.
type Gone struct {
	ID        string
	Type      webhook.Type
	Block     clearing.Block
	Endpoints []string
}

// Job is a claimed delivery.
type Job struct {
	Endpoint Endpoint
	Event    string
	Body     []byte
	Tries    int       // before this one
	Since    time.Time // when it was first to be tried, or asked for again
	Claim    string
}

// Outcome is what came of a job.
type Outcome struct {
	Job     Job
	Attempt Attempt
	State   State // Pending, Delivered or Failed
	DueAt   time.Time
	// Status is what its endpoint is from now on; empty: as it was. Reason and FailingSince go with it.
	Status       Status
	Reason       string
	FailingSince time.Time
}

// What a book says no with.
var (
	ErrNotFound = errors.New("no such webhook endpoint or delivery")
	ErrFull     = errors.New("there are as many webhook endpoints as one owner may have")
	ErrMoved    = errors.New("the webhook cursor has moved") // another node was faster
)

// Book keeps endpoints, messages and deliveries durably: when a method returns nil, what it did has survived a crash.
// Implementations are safe for concurrent use, and several processes may share one.
type Book interface {
	// AddEndpoint adds an endpoint, unless its owner has as many as most: [ErrFull].
	AddEndpoint(ctx context.Context, e Endpoint, most int) error
	// Endpoint returns an owner's endpoint, or [ErrNotFound].
	Endpoint(ctx context.Context, owner evm.Address, id string) (Endpoint, error)
	// EndpointsOf returns an owner's endpoints, the oldest first.
	EndpointsOf(ctx context.Context, owner evm.Address) ([]Endpoint, error)
	// Endpoints returns everybody's that are not disabled.
	Endpoints(ctx context.Context) ([]Endpoint, error)
	// ChangeEndpoint replaces an owner's endpoint by what change makes of it, in one transaction, or returns
	// [ErrNotFound]. An error of change is returned and changes nothing.
	ChangeEndpoint(ctx context.Context, owner evm.Address, id string, change func(*Endpoint) error) (Endpoint, error)
	// DropEndpoint forgets an owner's endpoint, or returns [ErrNotFound]. Its deliveries are not found from then on.
	DropEndpoint(ctx context.Context, owner evm.Address, id string) error

	// Cursor returns where deriving stands. The first time that is the newest block of the Confirmed stream, after which the
	// book keeps the stream's blocks from the cursor on.
	Cursor(ctx context.Context) (Cursor, error)
	// Events returns the events after a cursor, in order, at most limit, and the newest block of the Confirmed stream. With
	// gone it says that the chain took back the cursor's block.
	Events(ctx context.Context, after Cursor, limit int) (events []Applied, tip clearing.Block, gone bool, err error)
	// Gone returns messages that are not voided, and whose block the stream had and has no longer, at most limit.
	Gone(ctx context.Context, limit int) ([]Gone, error)
	// Earliest returns a cursor at the oldest block of the Confirmed stream that is remembered.
	Earliest(ctx context.Context) (Cursor, error)
	// Record writes a batch, or returns [ErrMoved] and writes nothing if the cursor is not at From. A message that is there
	// already, and is not voided, is passed over.
	Record(ctx context.Context, b Batch) error
	// Send writes a message that no event of the chain is behind.
	Send(ctx context.Context, m Message, at time.Time) error
	// Withdrawal returns an owner's newest request.
	Withdrawal(ctx context.Context, owner, asset evm.Address) (Withdrawal, bool, error)

	// Claim returns deliveries that are due, at most most, and at most each endpoint's share of those under way: perEndpoint, and
	// 1 where it is failing. They are the node's until a time.
	Claim(ctx context.Context, node string, now, until time.Time, most, perEndpoint int) ([]Job, error)
	// Report records an outcome, unless the claim has run out and somebody else has it.
	Report(ctx context.Context, o Outcome) error

	// Deliveries returns an endpoint's deliveries in a state (empty: any), the newest first; before names the delivery that
	// the list goes on after.
	Deliveries(ctx context.Context, endpoint string, state State, before string, limit int) ([]Delivery, error)
	// Delivery returns one delivery with its attempts, or [ErrNotFound].
	Delivery(ctx context.Context, endpoint, event string) (Delivery, error)
	// Redeliver makes a delivery that has ended pending again, or returns [ErrNotFound].
	Redeliver(ctx context.Context, endpoint, event string, now time.Time) (Delivery, error)

	// Prune forgets at most limit deliveries older than a time, and at most as many messages that nobody is sent, and
	// says how many.
	Prune(ctx context.Context, before time.Time, limit int) (int, error)
}
