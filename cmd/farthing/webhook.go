package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"text/tabwriter"
	"time"

	"github.com/farthing402/farthing/api/client"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/webhook"
)

type webhookCmd struct {
	Add        webhookAddCmd        `cmd:"" help:"Name a URL that is told what happens to your wallet. Its secret is printed, this once."`
	List       webhookListCmd       `cmd:"" help:"List your endpoints."`
	Test       webhookTestCmd       `cmd:"" help:"Send an endpoint an event that says it is a test."`
	Rotate     webhookRotateCmd     `cmd:"" help:"Give an endpoint another secret; the one before signs beside it for a while."`
	Enable     webhookEnableCmd     `cmd:"" help:"Send an endpoint events again."`
	Disable    webhookDisableCmd    `cmd:"" help:"Send an endpoint nothing until it is enabled."`
	Delete     webhookDeleteCmd     `cmd:"" help:"Forget an endpoint and its deliveries."`
	Deliveries webhookDeliveriesCmd `cmd:"" help:"List an endpoint's newest deliveries, or show one with its attempts."`
	Redeliver  webhookRedeliverCmd  `cmd:"" help:"Deliver an event once more, under the same id."`
	Listen     webhookListenCmd     `cmd:"" help:"Receive webhooks here, verify and print them."`
}

// webhookFlags say whose endpoints, at which clearing house.
type webhookFlags struct {
	venueFlags
	As string `enum:"seller,buyer" default:"seller" help:"Whose key, with --dev: seller or buyer."`
}

// webhooks connects to the clearing house as the wallet.
func (r *run) webhooks(f webhookFlags) (*venue, evm.Address, error) {
	who := r.loginSigner(f.As)
	if who == nil {
		return nil, evm.Address{}, misuse("whose webhooks?").hint("--key FILE, or --dev")
	}
	v, err := r.venue(f.venueFlags, who)
	return v, who.Address(), err
}

// endpoint does something with one endpoint and prints what it is then.
func (r *run) endpoint(f webhookFlags, do func(*client.Client, evm.Address) (client.Webhook, error)) error {
	v, who, err := r.webhooks(f)
	if err != nil {
		return err
	}
	defer v.Close()
	w, err := do(v.House, who)
	if err != nil {
		return err
	}
	text := fmt.Sprintf("%s  %s  %s\n", w.ID, w.Status, w.URL)
	if w.Secret != "" {
		text += "secret  " + w.Secret + "  keep it; it is not shown again\n"
	}
	if !w.BeforeUntil.IsZero() {
		text += "the secret before signs too until " + w.BeforeUntil.Format(time.RFC3339) + "\n"
	}
	return r.emit(w, "%s", text)
}

type webhookAddCmd struct {
	webhookFlags
	URL         string         `arg:"" help:"Where events are posted to."`
	Types       []webhook.Type `help:"Types of event, separated by commas; default all." placeholder:"TYPE,…"`
	Description string         `help:"Your own words."`
}

func (c *webhookAddCmd) Run(r *run) error {
	return r.endpoint(c.webhookFlags, func(h *client.Client, who evm.Address) (client.Webhook, error) {
		return h.AddWebhook(r.ctx, who, client.WebhookChange{URL: c.URL, Types: c.Types, Description: c.Description})
	})
}

type webhookListCmd struct{ webhookFlags }

func (c *webhookListCmd) Run(r *run) error {
	v, who, err := r.webhooks(c.webhookFlags)
	if err != nil {
		return err
	}
	defer v.Close()
	list, err := v.House.Webhooks(r.ctx, who)
	if err != nil {
		return err
	}
	return table(r, list, "id\tstatus\turl\ttypes", func(w client.Webhook) string {
		types := "all"
		if len(w.Types) > 0 {
			types = fmt.Sprint(w.Types)
		}
		status := w.Status
		if w.Reason != "" {
			status += ": " + w.Reason
		}
		return fmt.Sprintf("%s\t%s\t%s\t%s", w.ID, status, w.URL, types)
	})
}

// table prints a list: lines of JSON in a pipe, columns for a person.
func table[T any](r *run, list []T, head string, row func(T) string) error {
	if !r.Terminal || r.cli.JSON {
		for _, v := range list {
			if err := r.emit(v, ""); err != nil {
				return err
			}
		}
		return nil
	}
	w := tabwriter.NewWriter(r.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, head)
	for _, v := range list {
		fmt.Fprintln(w, row(v))
	}
	return w.Flush()
}

type webhookTestCmd struct {
	webhookFlags
	ID string `arg:"" help:"Endpoint."`
}

// delivery does something that concerns one delivery and prints it.
func (r *run) delivery(f webhookFlags, do func(*client.Client, evm.Address) (client.WebhookDelivery, error)) error {
	v, who, err := r.webhooks(f)
	if err != nil {
		return err
	}
	defer v.Close()
	d, err := do(v.House, who)
	if err != nil {
		return err
	}
	text := fmt.Sprintf("%s  %s  %s after %d attempts\n", d.Event, d.Type, d.State, d.Tries)
	for _, a := range d.Attempts {
		text += fmt.Sprintf("  %s  %d  %d ms  %s\n", a.At.Format(time.RFC3339), a.Status, a.Millis, a.Trouble)
	}
	return r.emit(d, "%s", text)
}

func (c *webhookTestCmd) Run(r *run) error {
	return r.delivery(c.webhookFlags, func(h *client.Client, who evm.Address) (client.WebhookDelivery, error) {
		return h.TestWebhook(r.ctx, who, c.ID)
	})
}

type webhookRotateCmd struct {
	webhookFlags
	ID      string        `arg:"" help:"Endpoint."`
	Overlap time.Duration `default:"24h" help:"How long the secret before goes on signing, at most a week."`
}

func (c *webhookRotateCmd) Run(r *run) error {
	return r.endpoint(c.webhookFlags, func(h *client.Client, who evm.Address) (client.Webhook, error) {
		return h.RotateWebhook(r.ctx, who, c.ID, c.Overlap)
	})
}

type webhookEnableCmd struct {
	webhookFlags
	ID string `arg:"" help:"Endpoint."`
}

func (c *webhookEnableCmd) Run(r *run) error { return c.set(r, c.ID, "enabled") }

type webhookDisableCmd struct {
	webhookFlags
	ID string `arg:"" help:"Endpoint."`
}

func (c *webhookDisableCmd) Run(r *run) error { return c.set(r, c.ID, "disabled") }

func (f webhookFlags) set(r *run, id, status string) error {
	return r.endpoint(f, func(h *client.Client, who evm.Address) (client.Webhook, error) {
		return h.ChangeWebhook(r.ctx, who, id, client.WebhookChange{Status: status})
	})
}

type webhookDeleteCmd struct {
	webhookFlags
	ID string `arg:"" help:"Endpoint."`
}

func (c *webhookDeleteCmd) Run(r *run) error {
	v, who, err := r.webhooks(c.webhookFlags)
	if err != nil {
		return err
	}
	defer v.Close()
	if err := v.House.DropWebhook(r.ctx, who, c.ID); err != nil {
		return err
	}
	return r.emit(map[string]any{"id": c.ID, "deleted": true}, "%s is deleted\n", c.ID)
}

type webhookDeliveriesCmd struct {
	webhookFlags
	ID    string `arg:"" help:"Endpoint."`
	Event string `arg:"" optional:"" help:"One delivery, by its event's id."`
	Limit int    `default:"20" help:"How many to list."`
}

func (c *webhookDeliveriesCmd) Run(r *run) error {
	if c.Event != "" {
		return r.delivery(c.webhookFlags, func(h *client.Client, who evm.Address) (client.WebhookDelivery, error) {
			return h.WebhookDelivery(r.ctx, who, c.ID, c.Event)
		})
	}
	v, who, err := r.webhooks(c.webhookFlags)
	if err != nil {
		return err
	}
	defer v.Close()
	list, err := v.House.WebhookDeliveries(r.ctx, who, c.ID, c.Limit)
	if err != nil {
		return err
	}
	return table(r, list, "event\ttype\tstate\ttries\twhen", func(d client.WebhookDelivery) string {
		return fmt.Sprintf("%s\t%s\t%s\t%d\t%s", d.Event, d.Type, d.State, d.Tries, d.CreatedAt.Format(time.RFC3339))
	})
}

type webhookRedeliverCmd struct {
	webhookFlags
	ID    string `arg:"" help:"Endpoint."`
	Event string `arg:"" help:"The event's id."`
}

func (c *webhookRedeliverCmd) Run(r *run) error {
	return r.delivery(c.webhookFlags, func(h *client.Client, who evm.Address) (client.WebhookDelivery, error) {
		return h.RedeliverWebhook(r.ctx, who, c.ID, c.Event)
	})
}

type webhookListenCmd struct {
	webhookFlags
	Listen string         `default:"127.0.0.1:0" help:"Address to receive on." placeholder:"HOST:PORT"`
	Secret string         `env:"FARTHING_WEBHOOK_SECRET" help:"Verify with this secret; without it an endpoint is added for as long as this runs." placeholder:"whsec_…"`
	Types  []webhook.Type `help:"Types of event to ask for; default all." placeholder:"TYPE,…"`
}

// Help is shown below the flags.
func (*webhookListenCmd) Help() string {
	return `With --dev, or beside a clearing house that was started with --webhooks-private, nothing else is needed. With --secret it only
verifies and prints what comes to --listen, for example through a tunnel to a URL that farthing webhook add has named.`
}

func (c *webhookListenCmd) Run(r *run) (err error) {
	var secret webhook.Secret
	if c.Secret != "" {
		if secret, err = webhook.ParseSecret(c.Secret); err != nil {
			return misuse("--secret: %v", err)
		}
	}
	listener, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return fail("config_invalid", "listen on %s: %v", c.Listen, err).hint("choose another with --listen")
	}
	defer listener.Close()
	url := "http://" + listener.Addr().String()
	if c.Secret == "" {
		v, who, err := r.webhooks(c.webhookFlags)
		if err != nil {
			return err
		}
		defer v.Close()
		w, err := v.House.AddWebhook(r.ctx, who, client.WebhookChange{URL: url, Types: c.Types, Description: "farthing webhook listen"})
		if err != nil {
			return err
		}
		defer func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(r.ctx), 5*time.Second)
			defer cancel()
			err = errors.Join(err, v.House.DropWebhook(ctx, who, w.ID))
		}()
		if secret, err = webhook.ParseSecret(w.Secret); err != nil {
			return err
		}
		r.say("endpoint    %s of %s, deleted when this ends", w.ID, who)
	}
	r.say("listening   %s   Ctrl-C stops", url)
	server := &http.Server{ReadTimeout: 10 * time.Second, Handler: c.receiver(r, secret)}
	stopped := context.AfterFunc(r.ctx, func() { server.Close() })
	defer stopped()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// receiver prints each webhook that verifies, and says of each other why it does not.
func (c *webhookListenCmd) receiver(r *run, secret webhook.Secret) http.HandlerFunc {
	lines := make(chan struct{}, 1) // one webhook prints at a time
	return func(w http.ResponseWriter, q *http.Request) {
		event, err := webhook.Receive(q, time.Now(), secret)
		lines <- struct{}{}
		defer func() { <-lines }()
		if err != nil {
			r.say("refused     %v, from %s", err, q.RemoteAddr)
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if err := r.emit(event, "%s  %s  %s  %s\n", event.CreatedAt.Format("15:04:05"), event.Type, event.ID, json.RawMessage(event.Data)); err != nil {
			http.Error(w, "not printed", http.StatusInternalServerError)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	}
}
