package x402

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// Sale describes a route to whoever looks for something to buy: the extension bazaar, for HTTP.
type Sale struct {
	Method        string // GET, HEAD, DELETE, POST, PUT or PATCH
	Query         map[string]any
	QuerySchema   json.RawMessage // of Query; nil: any object
	PathParams    map[string]any  // of this request, by the names in RouteTemplate
	RouteTemplate string          // /users/:id; "" for a path without parameters
	BodyType      string          // json, form-data or text, for a method with a body; "": none
	Body          any             // an example
	BodySchema    json.RawMessage // of Body; nil: anything
	Output        any             // an example; nil: not told
	OutputSchema  json.RawMessage // of Output; nil: anything
}

// bazaarInput is info.input for HTTP.
type bazaarInput struct {
	Type        string         `json:"type"`
	Method      string         `json:"method,omitempty"`
	BodyType    string         `json:"bodyType,omitempty"`
	Body        any            `json:"body,omitempty"`
	QueryParams map[string]any `json:"queryParams,omitempty"`
	PathParams  map[string]any `json:"pathParams,omitempty"`
}

type bazaarOutput struct {
	Type    string `json:"type"`
	Example any    `json:"example"`
}

type bazaarInfo struct {
	Input  bazaarInput   `json:"input"`
	Output *bazaarOutput `json:"output,omitempty"`
}

// bazaarEntry is the extension's entry.
type bazaarEntry struct {
	RouteTemplate string          `json:"routeTemplate,omitempty"`
	Info          json.RawMessage `json:"info"`
	Schema        json.RawMessage `json:"schema"`
}

// Declare returns the entry for terms. The error is a sale that says what no facilitator would list.
func (s Sale) Declare() (json.RawMessage, error) {
	query := slices.Contains(queryMethods, s.Method)
	switch {
	case !query && !slices.Contains(bodyMethods, s.Method):
		return nil, fmt.Errorf("bazaar: method %q cannot be listed", clip(s.Method))
	case query && s.BodyType != "":
		return nil, fmt.Errorf("bazaar: %s has no body", s.Method)
	case s.BodyType != "" && !slices.Contains(bodyTypes, s.BodyType):
		return nil, fmt.Errorf("bazaar: body type %q is not json, form-data or text", clip(s.BodyType))
	case s.RouteTemplate != "" && !ValidRouteTemplate(s.RouteTemplate):
		return nil, fmt.Errorf("bazaar: route template %q", clip(s.RouteTemplate))
	}
	info := bazaarInfo{Input: bazaarInput{
		Type: "http", Method: s.Method, QueryParams: s.Query, PathParams: s.PathParams, BodyType: s.BodyType,
	}}
	type object map[string]any
	input := object{"type": object{"const": "http"}, "method": object{"const": s.Method}}
	needs := []string{"type", "method"}
	if s.BodyType != "" {
		if info.Input.Body = s.Body; s.Body == nil {
			info.Input.Body = object{}
		}
		input["bodyType"], input["body"] = object{"const": s.BodyType}, or(s.BodySchema, `{}`)
		needs = append(needs, "bodyType", "body")
	}
	if s.Query != nil || s.QuerySchema != nil {
		input["queryParams"] = or(s.QuerySchema, `{"type":"object"}`)
	}
	if s.PathParams != nil || s.RouteTemplate != "" {
		input["pathParams"] = object{"type": "object"}
	}
	schema := object{"type": "object", "required": []string{"input"}, "properties": object{
		"input": object{"type": "object", "properties": input, "required": needs, "additionalProperties": false},
	}}
	if s.Output != nil {
		info.Output = &bazaarOutput{"json", s.Output}
		schema["properties"].(object)["output"] = object{
			"type": "object", "properties": object{"type": object{"type": "string"}, "example": or(s.OutputSchema, `{}`)}, "required": []string{"type"},
		}
	}
	var e bazaarEntry
	var err error
	if e.Info, err = encodePlain(info); err != nil {
		return nil, fmt.Errorf("bazaar: %w", err)
	}
	if e.Schema, err = encodePlain(schema); err != nil {
		return nil, fmt.Errorf("bazaar: %w", err)
	}
	e.RouteTemplate = s.RouteTemplate
	if err := CheckSchema(e.Schema, e.Info); err != nil {
		return nil, fmt.Errorf("bazaar: the example is not what its schema says: %w", err)
	}
	return encodePlain(e)
}

func or(schema json.RawMessage, otherwise string) json.RawMessage {
	if schema == nil {
		return json.RawMessage(otherwise)
	}
	return schema
}

var (
	queryMethods = []string{"GET", "HEAD", "DELETE"}
	bodyMethods  = []string{"POST", "PUT", "PATCH"}
	bodyTypes    = []string{"json", "form-data", "text"}
	transports   = []string{"streamable-http", "sse"}
	templateText = regexp.MustCompile(`^/[a-zA-Z0-9_/:.\-~%]+$`)
)

// decodePasses is how often a template may be percent-encoded over; more is a way to hide something.
const decodePasses = 5

// ValidRouteTemplate reports whether a path with :parameters may become part of an address: it has no .. and no :// in it,
// however often they are percent-encoded.
func ValidRouteTemplate(s string) bool {
	if len(s) > 512 || !templateText.MatchString(s) {
		return false
	}
	for range decodePasses {
		next, err := url.PathUnescape(s)
		if err != nil {
			return false
		}
		if next == s {
			return !strings.Contains(s, "..") && !strings.Contains(s, "://")
		}
		s = next
	}
	return false
}

// Listing is what a payment's echo of bazaar says of the resource that was paid for.
type Listing struct {
	Resource      string // URL: of the route where there is a template, without query
	Type          string // "http" or "mcp"
	Method        string // http; may be empty
	Tool          string // mcp
	RouteTemplate string
	Info          json.RawMessage
	Service       Resource // description and what else of the service can be shown
}

// Key is what a facilitator's catalog knows the listing by: a payment for the same key renews it.
func (l Listing) Key() string { return l.Resource + "\n" + l.Tool }

// Listed returns what a facilitator may list for a payment. Without bazaar found is false; the error says why an entry is
// not listed. Nothing here is verified but its form: the words are the seller's, through the buyer.
func (p Payment) Listed() (l Listing, found bool, err error) {
	raw, ok := p.Extensions[BazaarKey]
	if !ok || isNull(raw) || p.Version != 2 {
		return l, false, nil
	}
	var e bazaarEntry
	if err := Decode(raw, &e); err != nil {
		return l, true, fmt.Errorf("bazaar: %w", err)
	}
	var info struct {
		Input *struct {
			Type, Method, BodyType string
			ToolName, Transport    string
			Tool                   string
			InputSchema            json.RawMessage
		} `json:"input"`
	}
	if isNull(e.Info) || isNull(e.Schema) {
		return l, true, errors.New("bazaar: info or schema is missing")
	}
	if err := json.Unmarshal(e.Info, &info); err != nil || info.Input == nil {
		return l, true, errors.New("bazaar: info has no input that can be read")
	}
	in := info.Input
	l = Listing{Type: in.Type, Method: in.Method, Tool: in.ToolName, Info: e.Info}
	if l.Tool == "" {
		l.Tool = in.Tool // the text's name; the packages say toolName
	}
	switch {
	case in.Type == "http" && in.Method != "" && !slices.Contains(queryMethods, in.Method) && !slices.Contains(bodyMethods, in.Method):
		return l, true, fmt.Errorf("bazaar: method %q", clip(in.Method))
	case in.Type == "http" && in.BodyType != "" && (!slices.Contains(bodyTypes, in.BodyType) || slices.Contains(queryMethods, in.Method)):
		return l, true, fmt.Errorf("bazaar: body type %q with method %q", clip(in.BodyType), clip(in.Method))
	case in.Type == "mcp" && (l.Tool == "" || len(in.InputSchema) == 0 || in.InputSchema[0] != '{'):
		return l, true, errors.New("bazaar: a tool needs its name and inputSchema")
	case in.Type == "mcp" && in.Transport != "" && !slices.Contains(transports, in.Transport):
		return l, true, fmt.Errorf("bazaar: transport %q", clip(in.Transport))
	case in.Type != "http" && in.Type != "mcp":
		return l, true, fmt.Errorf("bazaar: input of type %q", clip(in.Type))
	case in.Type == "http":
		l.Tool = ""
	}
	if err := CheckSchema(e.Schema, e.Info); err != nil {
		return l, true, fmt.Errorf("bazaar: %w", err)
	}
	if p.Resource == nil {
		return l, true, errors.New("bazaar: the payment names no resource")
	}
	u, err := url.Parse(p.Resource.URL)
	web := err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != ""
	if err != nil || u.User != nil || !web && !(l.Type == "mcp" && u.Scheme == "mcp" && u.Host != "") || len(p.Resource.URL) > 2048 {
		return l, true, errors.New("bazaar: the payment's resource has no address that can be listed")
	}
	path := u.EscapedPath()
	if e.RouteTemplate != "" {
		if !ValidRouteTemplate(e.RouteTemplate) {
			return l, true, fmt.Errorf("bazaar: route template %q", clip(e.RouteTemplate))
		}
		l.RouteTemplate, path = e.RouteTemplate, e.RouteTemplate
	}
	l.Resource = u.Scheme + "://" + u.Host + path
	l.Service = p.Resource.shown()
	l.Service.URL = l.Resource
	return l, true, nil
}

// shown returns the resource with what may be shown to strangers: a printable name, at most five tags, and an icon at a
// public address.
func (r Resource) shown() Resource {
	printable := func(s string, max int) bool {
		return s != "" && len(s) <= max && strings.Trim(s, "\x20!\"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_`abcdefghijklmnopqrstuvwxyz{|}~") == ""
	}
	out := Resource{URL: r.URL, Description: r.Description, MimeType: r.MimeType}
	if printable(r.ServiceName, 32) {
		out.ServiceName = r.ServiceName
	}
	for _, t := range r.Tags {
		if len(out.Tags) < 5 && printable(t, 32) && !slices.ContainsFunc(out.Tags, func(o string) bool { return strings.EqualFold(o, t) }) {
			out.Tags = append(out.Tags, t)
		}
	}
	if publicURL(r.IconURL) {
		out.IconURL = r.IconURL
	}
	return out
}

// publicURL reports whether a page may load something from there: a name with letters in it, not this host and not an
// address in disguise.
func publicURL(s string) bool {
	if s == "" || len(s) > 2048 || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '\\' }) {
		return false
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.User != nil {
		return false
	}
	host := strings.ToLower(strings.TrimSuffix(u.Hostname(), "."))
	last := host[strings.LastIndexByte(host, '.')+1:]
	_, isAddress := netip.ParseAddr(host)
	if isAddress == nil || strings.ContainsAny(host, ":%") || last == "" {
		return false
	}
	// A last label of digits or 0x is read as an address by browsers.
	if strings.Trim(last, "0123456789") == "" || strings.HasPrefix(last, "0x") {
		return false
	}
	return last != "localhost" && last != "localdomain" && last != "ip6-localhost" && last != "ip6-loopback"
}
