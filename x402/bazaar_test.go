package x402

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSchemas(t *testing.T) {
	t.Parallel()
	deep := strings.Repeat(`{"not":`, 25) + `{}` + strings.Repeat(`}`, 25)
	for _, tt := range []struct {
		name, schema, value string
		want                string // part of the error; empty: it passes
	}{
		{"anything", `{}`, `[1]`, ""},
		{"true", `true`, `1`, ""},
		{"false", `false`, `1`, "is not allowed"},
		{"type", `{"type":"object"}`, `{}`, ""},
		{"one of two types", `{"type":["null","string"]}`, `null`, ""},
		{"another type", `{"type":"string"}`, `1`, "is not of type string"},
		{"an integer as JavaScript has it", `{"type":"integer"}`, `1.0`, ""},
		{"a fraction", `{"type":"integer"}`, `1.5`, "integer"},
		{"const", `{"const":{"a":[1]}}`, `{"a":[1.0]}`, ""},
		{"another const", `{"const":"a"}`, `"b"`, "is not the value"},
		{"enum", `{"enum":["a",null]}`, `null`, ""},
		{"none of an enum", `{"enum":["a"]}`, `"b"`, "is none of"},
		{"required", `{"required":["a"]}`, `{"b":1}`, "has no a"},
		{"required of what is no object", `{"required":["a"]}`, `7`, ""},
		{"properties", `{"properties":{"a":{"type":"string"}}}`, `{"a":1}`, "info.a is not of type"},
		{"properties that are not there", `{"properties":{"a":{"type":"string"}}}`, `{"b":1}`, ""},
		{"no other properties", `{"properties":{"a":{}},"patternProperties":{"^x":{}},"additionalProperties":false}`, `{"a":1,"x1":2,"b":3}`, "info.b is not allowed"},
		{"other properties of a type", `{"additionalProperties":{"type":"string"}}`, `{"a":1}`, "info.a"},
		{"property names", `{"propertyNames":{"maxLength":2}}`, `{"abc":1}`, "info.abc"},
		{"pattern of properties", `{"patternProperties":{"^x":{"type":"string"}}}`, `{"x1":1}`, "info.x1"},
		{"too few properties", `{"minProperties":1}`, `{}`, "minProperties"},
		{"too many properties", `{"maxProperties":1}`, `{"a":1,"b":2}`, "maxProperties"},
		{"items", `{"items":{"type":"string"}}`, `["a",1]`, "info[1]"},
		{"the first items and the rest", `{"prefixItems":[{"type":"number"}],"items":false}`, `[1]`, ""},
		{"one item more", `{"prefixItems":[{"type":"number"}],"items":false}`, `[1,2]`, "info[1] is not allowed"},
		{"a first item of another type", `{"prefixItems":[{"type":"number"}]}`, `["a"]`, "info[0]"},
		{"too few items", `{"minItems":1}`, `[]`, "minItems"},
		{"the same item twice", `{"uniqueItems":true}`, `[{"a":1},{"a":1.0}]`, "twice"},
		{"length in characters", `{"minLength":2,"maxLength":2}`, `"é₮"`, ""},
		{"too long", `{"maxLength":1}`, `"é₮"`, "maxLength"},
		{"pattern", `{"pattern":"^0x[a-f]+$"}`, `"0xab"`, ""},
		{"against a pattern", `{"pattern":"^0x[a-f]+$"}`, `"0xyz"`, "does not match"},
		{"bounds", `{"minimum":1,"maximum":2,"multipleOf":0.5}`, `1.5`, ""},
		{"too low", `{"minimum":1}`, `0.5`, "minimum"},
		{"not above", `{"exclusiveMinimum":1}`, `1`, "exclusiveMinimum"},
		{"not below", `{"exclusiveMaximum":1}`, `1`, "exclusiveMaximum"},
		{"no multiple", `{"multipleOf":2}`, `3`, "multipleOf"},
		{"all of", `{"allOf":[{"type":"number"},{"minimum":2}]}`, `1`, "minimum"},
		{"any of", `{"anyOf":[{"type":"string"},{"minimum":1}]}`, `1`, ""},
		{"none of any", `{"anyOf":[{"type":"string"},{"minimum":2}]}`, `1`, "string"},
		{"one of", `{"oneOf":[{"type":"number"},{"minimum":1}]}`, `1`, "more than one"},
		{"not", `{"not":{"type":"string"}}`, `1`, ""},
		{"what it must not be", `{"not":{"type":"number"}}`, `1`, "must not be"},
		{"a reference within", `{"$ref":"#/$defs/a~1b","$defs":{"a/b":{"type":"string"}}}`, `1`, "string"},
		{"a reference to itself", `{"properties":{"next":{"$ref":"#"}},"required":["v"]}`, `{"v":1,"next":{"v":2,"next":{}}}`, "has no v"},
		{"words that describe", `{"$schema":"x","title":"t","description":"d","default":1,"examples":[1],"format":"uri","x-mine":1}`, `1`, ""},

		{"a reference elsewhere", `{"$ref":"https://evil.example/schema"}`, `1`, "schema: $ref leads to another place"},
		{"a file", `{"properties":{"a":{"$ref":"file:///etc/passwd"}}}`, `{"a":1}`, "schema: $ref"},
		{"another base", `{"$id":"https://evil.example/","type":"number"}`, `1`, "schema: $id"},
		{"a reference to nowhere", `{"$ref":"#/a/b"}`, `1`, "leads nowhere"},
		{"a reference to an anchor", `{"$ref":"#a"}`, `1`, "leads nowhere"},
		{"a circle", `{"$ref":"#"}`, `1`, "too large"},
		{"a tower", `{"allOf":[{"$ref":"#"},{"$ref":"#"},{"$ref":"#"}]}`, `1`, "too large"},
		{"many patterns for many members", `{"patternProperties":{` + numbered(300, `"%d$":{}`) + `}}`, `{` + numbered(300, `"x%d":1`) + `}`, "too large"},
		{"a long list of what is not there twice", `{"uniqueItems":true}`, `[` + numbered(400, `%d`) + `]`, "too large"},
		{"a long enum for a long list", `{"items":{"enum":[` + numbered(400, `%d`) + `]}}`, `[` + numbered(400, `%d`) + `]`, "too large"},
		{"words that are not checked", `{"if":{"type":"string"}}`, `1`, `schema: "if"`},
		{"not what cannot be checked", `{"not":{"if":{}}}`, `1`, `schema: "if"`},
		{"any of what cannot be checked", `{"anyOf":[{"if":{}},{}]}`, `1`, `schema: "if"`},
		{"a pattern that looks ahead", `{"pattern":"(?=a)"}`, `"a"`, "schema: pattern"},
		{"a pattern that is long", `{"pattern":"` + strings.Repeat("a", 600) + `"}`, `"a"`, "schema: pattern"},
		{"a type that is a number", `{"type":1}`, `1`, "schema:"},
		{"a list of nothing", `{"anyOf":[]}`, `1`, "schema:"},
		{"a limit that is text", `{"minimum":"1"}`, `1`, "schema:"},
		{"a length that is text", `{"minLength":"1"}`, `"a"`, "schema:"},
		{"required that is text", `{"required":"a"}`, `{}`, "schema:"},
		{"required numbers", `{"required":[1]}`, `{}`, "schema:"},
		{"properties that are a list", `{"properties":[]}`, `{}`, "schema:"},
		{"a multiple of nothing", `{"multipleOf":0}`, `1`, "schema:"},
		{"an enum that is text", `{"enum":"a"}`, `"a"`, "schema:"},
		{"a schema that is text", `"string"`, `"a"`, "schema:"},
		{"a schema that is no JSON", `{`, `1`, "schema:"},
		{"a member twice", `{"type":"string","type":"number"}`, `1`, "twice"},
		{"a value with a member twice", `{}`, `{"a":1,"a":2}`, "twice"},
		{"a value that is no JSON", `{}`, `x`, "not JSON"},
		{"something behind the value", `{}`, `1 2`, "not JSON"},
		{"depth", deep, `1`, "must not be"},
	} {
		err := CheckSchema(json.RawMessage(tt.schema), json.RawMessage(tt.value))
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
}

// numbered is a list of n things with their numbers in them.
func numbered(n int, format string) string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf(format, i)
	}
	return strings.Join(list, ",")
}

func FuzzCheckSchema(f *testing.F) {
	f.Add(`{"type":"object","properties":{"a":{"$ref":"#"}},"additionalProperties":false,"patternProperties":{"^x":{"items":{"enum":[1]}}}}`, `{"a":{"x":[1]}}`)
	f.Add(`{"oneOf":[{"const":1},{"not":{"uniqueItems":true}}]}`, `[1,1]`)
	f.Add(`{"allOf":[{"$ref":"#"}],"multipleOf":1e-400}`, `1e400`)
	f.Fuzz(func(t *testing.T, schema, value string) {
		first := CheckSchema(json.RawMessage(schema), json.RawMessage(value))
		if again := CheckSchema(json.RawMessage(schema), json.RawMessage(value)); fmt.Sprint(first) != fmt.Sprint(again) {
			t.Fatalf("once %v, once %v", first, again)
		}
	})
}

func TestRouteTemplates(t *testing.T) {
	t.Parallel()
	for template, ok := range map[string]bool{
		"/users/:id": true, "/a/:b/c-d_e.f~g": true, "/a%20b": true, "/a/b:c": true,
		"": false, "/": false, "users": false, "/a b": false, "/a?b": false, "/a#b": false, "/[id]": false, "/a\n": false, "/é": false,
		"/a/../b": false, "/a/%2e%2e/b": false, "/a/%252e%252e/b": false, "/a/.%2e/b": false, "/http://evil": false, "/http:%2f%2fevil": false, "/http%3a%252f%252fevil": false,
		"/a%": false, "/a%zz": false, "/%2525252525252525252541": false, "/" + strings.Repeat("a", 600): false,
	} {
		if got := ValidRouteTemplate(template); got != ok {
			t.Errorf("%q: %v", template, got)
		}
	}
}

func FuzzRouteTemplate(f *testing.F) {
	f.Add("/users/:id")
	f.Add("/a/%252e%252e/b")
	f.Fuzz(func(t *testing.T, s string) {
		if !ValidRouteTemplate(s) {
			return
		}
		u, err := url.Parse("https://api.example.com" + s)
		if err != nil || u.Host != "api.example.com" || strings.Contains(u.Path, "..") || u.RawQuery != "" || u.Fragment != "" {
			t.Fatalf("%q leads to %v (%v)", s, u, err)
		}
	})
}

// echo is a payment that sends back a bazaar entry for a resource.
func echo(entry, resource string) Payment {
	return Payment{Version: 2, Resource: &Resource{URL: resource, Description: "d", ServiceName: "Weather ☀", Tags: []string{"a", "A", "", "b"}, IconURL: "http://127.0.0.1/i.png"},
		Extensions: map[string]json.RawMessage{BazaarKey: json.RawMessage(entry)}}
}

// What a route declares is listed when a payment brings it back.
func TestSalesAreListed(t *testing.T) {
	t.Parallel()
	query := Sale{
		Method: "GET", Query: map[string]any{"city": "Paris"}, QuerySchema: json.RawMessage(`{"type":"object","properties":{"city":{"type":"string"}},"required":["city"]}`),
		PathParams: map[string]any{"day": "1"}, RouteTemplate: "/weather/:day", Output: map[string]any{"temp": 20},
	}
	body := Sale{Method: "POST", BodyType: "json", Body: map[string]any{"prompt": "x"}, BodySchema: json.RawMessage(`{"type":"object"}`)}
	bare := Sale{Method: "DELETE"}
	for _, tt := range []struct {
		name, resource string
		sale           Sale
		want           Listing
	}{
		{"with a template", "https://api.example.com/weather/1?city=Oslo", query, Listing{Resource: "https://api.example.com/weather/:day", Type: "http", Method: "GET", RouteTemplate: "/weather/:day"}},
		{"with a body", "http://127.0.0.1:4020/generate?x=1#y", body, Listing{Resource: "http://127.0.0.1:4020/generate", Type: "http", Method: "POST"}},
		{"with nothing", "https://api.example.com/a%2Fb", bare, Listing{Resource: "https://api.example.com/a%2Fb", Type: "http", Method: "DELETE"}},
	} {
		entry, err := tt.sale.Declare()
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		l, found, err := echo(string(entry), tt.resource).Listed()
		if err != nil || !found {
			t.Errorf("%s: %v (%v) for %s", tt.name, found, err, entry)
			continue
		}
		tt.want.Service = Resource{URL: tt.want.Resource, Description: "d", Tags: []string{"a", "b"}}
		l.Info = nil
		if diff := cmp.Diff(tt.want, l); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", tt.name, diff)
		}
	}
	for name, s := range map[string]Sale{
		"an unknown method": {Method: "BREW"}, "no method": {}, "a body with GET": {Method: "GET", BodyType: "json"}, "an unknown body": {Method: "POST", BodyType: "xml"},
		"a template that climbs": {Method: "GET", RouteTemplate: "/a/../b"}, "an example against its schema": {Method: "GET", Query: map[string]any{"n": 1}, QuerySchema: json.RawMessage(`{"properties":{"n":{"type":"string"}}}`)},
		"what is no JSON": {Method: "GET", Query: map[string]any{"n": make(chan int)}}, "a schema that is no JSON": {Method: "GET", QuerySchema: json.RawMessage(`{`)},
	} {
		if entry, err := s.Declare(); err == nil {
			t.Errorf("%s was declared: %s", name, entry)
		}
	}
}

func TestWhatIsNotListed(t *testing.T) {
	t.Parallel()
	const home = "https://api.example.com/x"
	entry := func(input string) string { return `{"info":{"input":` + input + `},"schema":{}}` }
	tool := entry(`{"type":"mcp","toolName":"search","inputSchema":{}}`)
	for _, tt := range []struct {
		name, entry, resource string
		want                  string // part of the error; empty: listed
	}{
		{"a tool", tool, "mcp://tool/search", ""},
		{"a tool over HTTP", entry(`{"type":"mcp","tool":"search","inputSchema":{},"transport":"sse"}`), home, ""},
		{"the packages' declaration, with its method", strings.Replace(string(readExtensionVectors(t).Bazaar), `"type": "http"`, `"type":"http","method":"GET"`, 1), home, ""},
		{"the packages' declaration, without", string(readExtensionVectors(t).Bazaar), home, "has no method"},
		{"text", `"x"`, home, "bazaar"},
		{"no info", `{"schema":{}}`, home, "info or schema"},
		{"no schema", `{"info":{"input":{"type":"http"}}}`, home, "info or schema"},
		{"no input", `{"info":{},"schema":{}}`, home, "no input"},
		{"input that is text", `{"info":{"input":"x"},"schema":{}}`, home, "no input"},
		{"another type", entry(`{"type":"grpc"}`), home, "type"},
		{"an unknown method", entry(`{"type":"http","method":"BREW"}`), home, "method"},
		{"a body with GET", entry(`{"type":"http","method":"GET","bodyType":"json"}`), home, "body type"},
		{"an unknown body", entry(`{"type":"http","bodyType":"xml"}`), home, "body type"},
		{"a tool without a name", entry(`{"type":"mcp","inputSchema":{}}`), home, "its name"},
		{"a tool without a schema", entry(`{"type":"mcp","toolName":"x"}`), home, "inputSchema"},
		{"a tool by another transport", entry(`{"type":"mcp","toolName":"x","inputSchema":{},"transport":"pigeon"}`), home, "transport"},
		{"info against its schema", `{"info":{"input":{"type":"http"}},"schema":{"required":["output"]}}`, home, "has no output"},
		{"a schema from elsewhere", `{"info":{"input":{"type":"http"}},"schema":{"$ref":"https://evil.example/"}}`, home, "another place"},
		{"a template that climbs", `{"routeTemplate":"/a/%2e%2e/b","info":{"input":{"type":"http"}},"schema":{}}`, home, "route template"},
		{"a resource that is a path", entry(`{"type":"http"}`), "/x", "address"},
		{"a resource with a password", entry(`{"type":"http"}`), "https://a:b@api.example.com/", "address"},
		{"a script", entry(`{"type":"http"}`), "javascript:alert(1)", "address"},
		{"an address of a tool for HTTP", entry(`{"type":"http"}`), "mcp://tool/x", "address"},
		{"a very long address", entry(`{"type":"http"}`), home + strings.Repeat("x", 2048), "address"},
	} {
		l, found, err := echo(tt.entry, tt.resource).Listed()
		if !found || (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %+v, %v (%v), want %q", tt.name, l, found, err, tt.want)
		}
	}
	l, _, _ := echo(tool, "mcp://tool/search").Listed()
	m, _, _ := echo(entry(`{"type":"http"}`), home).Listed()
	if l.Tool != "search" || l.Key() == m.Key() {
		t.Errorf("%+v and %+v", l, m)
	}
	nowhere := echo(tool, home)
	nowhere.Resource = nil
	if _, found, err := nowhere.Listed(); !found || err == nil {
		t.Errorf("no resource: %v (%v)", found, err)
	}
	old := echo(tool, home)
	old.Version = 1
	for name, p := range map[string]Payment{"version 1": old, "no extension": {Version: 2}, "null": echo("null", home)} {
		if _, found, err := p.Listed(); found || err != nil {
			t.Errorf("%s: %v (%v)", name, found, err)
		}
	}
}

func FuzzListed(f *testing.F) {
	f.Add(string(readExtensionVectors(f).Bazaar), "https://api.example.com/x")
	f.Add(`{"routeTemplate":"/a/:b","info":{"input":{"type":"mcp","tool":"x","inputSchema":{}}},"schema":true}`, "mcp://tool/x")
	f.Fuzz(func(t *testing.T, entry, resource string) {
		l, found, err := echo(entry, resource).Listed()
		if !found || err != nil {
			return
		}
		u, err := url.Parse(l.Resource)
		if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "mcp" {
			t.Fatalf("lists %q (%v)", l.Resource, err)
		}
	})
}

func TestIconsComeFromPublicPlaces(t *testing.T) {
	t.Parallel()
	for icon, ok := range map[string]bool{
		"https://cdn.example.org/i.png": true, "http://example.org:8080/i": true,
		"": false, "/i.png": false, "ftp://example.org/i": false, "javascript:alert(1)": false, "https://a@example.org/": false, "https://localhost/": false, "https://localhost./": false,
		"https://x.localhost/": false, "https://127.0.0.1/": false, "https://[::1]/": false, "https://2130706433/": false, "https://0x7f000001/": false, "https://10.0.0x1/": false,
		"https://example.org/\n": false, "https://exa mple.org/": false, "https:\\\\example.org/": false, "https://example.org/" + strings.Repeat("x", 2048): false,
	} {
		if got := (Resource{IconURL: icon}).shown().IconURL != ""; got != ok {
			t.Errorf("%q: %v", icon, got)
		}
	}
	r := Resource{ServiceName: "Weather & more", Tags: []string{"1", "2", "3", "4", "5", "6", strings.Repeat("x", 33), "\x01"}}.shown()
	if r.ServiceName != "Weather & more" || len(r.Tags) != 5 {
		t.Errorf("%+v", r)
	}
	if r := (Resource{ServiceName: strings.Repeat("x", 33)}).shown(); r.ServiceName != "" {
		t.Errorf("%+v", r)
	}
}

func TestTheCatalog(t *testing.T) {
	t.Parallel()
	var catalog []Discovered
	for i := range 30 {
		r := offered()
		if i%2 == 1 {
			r.Network = "eip155:8453"
		}
		if i%3 == 0 {
			r.Scheme = "upto"
		}
		e := Discovered{Resource: fmt.Sprint(i), Type: "http", X402Version: 2, Accepts: []Requirements{r}}
		if i == 29 {
			e.Type, e.Metadata = "mcp", map[string]json.RawMessage{"extensions": json.RawMessage(`{"bazaar":{}}`)}
		}
		catalog = append(catalog, e)
	}
	for _, tt := range []struct {
		query        string
		items, total int
		first        string
	}{
		{"", 20, 30, "0"},
		{"limit=100", 30, 30, "0"},
		{"limit=5&offset=28", 2, 30, "28"},
		{"offset=30", 0, 30, ""},
		{"network=eip155:8453", 15, 15, "1"},
		{"network=base&scheme=upto&limit=2", 2, 5, "3"},
		{"payTo=0x209693bc6afc0c5328ba36faf03c514ef312287c", 20, 30, "0"},
		{"payTo=0x01", 0, 0, ""},
		{"type=mcp", 1, 1, "29"},
		{"extensions=bazaar", 1, 1, "29"},
		{"extensions=other", 0, 0, ""},
		{"unknown=1&limit=1", 1, 30, "0"},
	} {
		values, err := url.ParseQuery(tt.query)
		if err != nil {
			t.Fatal(err)
		}
		q, e := ParseDiscoveryQuery(values)
		if e != nil {
			t.Errorf("%s: %v", tt.query, e)
			continue
		}
		a := q.Page(catalog)
		if len(a.Items) != tt.items || a.Pagination.Total != tt.total || a.Pagination.Limit != q.Limit || a.Pagination.Offset != q.Offset || tt.items > 0 && a.Items[0].Resource != tt.first {
			t.Errorf("%s: %d of %+v", tt.query, len(a.Items), a.Pagination)
		}
	}
	for _, query := range []string{"limit=0", "limit=101", "limit=x", "limit=-1", "offset=-1", "offset=99999999999", "limit=1&limit=2", "type=http&type=mcp", "limit=1.5"} {
		values, _ := url.ParseQuery(query)
		if q, e := ParseDiscoveryQuery(values); e == nil || e.Code != "malformed_request" {
			t.Errorf("%s: %+v (%v)", query, q, e)
		}
	}
	if b, err := json.Marshal(DiscoveryAnswer{X402Version: 2}); err != nil || string(b) != `{"x402Version":2,"items":[],"pagination":{"limit":0,"offset":0,"total":0}}` {
		t.Errorf("%s (%v)", b, err)
	}
}

func TestExtensionResponses(t *testing.T) {
	t.Parallel()
	h := http.Header{}
	SetExtensionResponses(h, nil)
	if len(h) != 0 || ReadExtensionResponses(h) != nil {
		t.Errorf("none: %v", h)
	}
	said := map[string]ExtensionStatus{BazaarKey: {Status: "rejected", RejectedReason: "no method"}}
	SetExtensionResponses(h, said)
	if got := decoded(t, h.Get("extension-responses")); got != `{"bazaar":{"status":"rejected","rejectedReason":"no method"}}` {
		t.Errorf("wrote %s", got)
	}
	if diff := cmp.Diff(said, ReadExtensionResponses(h)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if got := ReadExtensionResponses(with(HeaderExtensionResponses, "?")); got != nil {
		t.Errorf("read %v", got)
	}
}
