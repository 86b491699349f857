package security

import (
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// Each test of this file tries an attack that has worked against a broker; docs/security.md has the list.

// TestAttackByATokensKeys: a token is checked with the keys of the configuration, whatever keys it brings or points to.
func TestAttackByATokensKeys(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var visits atomic.Int32
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			visits.Add(1)
			_ = nc.Close()
		}
	}()
	defer func() { _ = l.Close(); <-done }()

	idp, thief := newIssuer(t), newIssuer(t)
	file := filepath.Join(idp.dir, "keys.json")
	if err := os.WriteFile(file, idp.keySet(t, "k1"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := offer(t, "sasl.enabled.mechanisms=OAUTHBEARER", "sasl.oauthbearer.jwks.endpoint.url=file://"+filepath.ToSlash(file))
	s.ReloadKeys(time.Now(), nil)
	var own struct{ Keys []map[string]any }
	if err := json.Unmarshal(thief.keySet(t, "k1"), &own); err != nil {
		t.Fatal(err)
	}
	url := "http://" + l.Addr().String() + "/keys"
	for what, header := range map[string]map[string]any{
		"a key set's URL":       {"kid": "k1", "jku": url},
		"a certificate's URL":   {"kid": "k1", "x5u": url},
		"a key of its own":      {"kid": "k1", "jwk": own.Keys[0]},
		"no key id":             {"jwk": own.Keys[0]},
		"a certificate":         {"kid": "k1", "x5c": []string{base64.StdEncoding.EncodeToString(issue(t, nil, pkix.Name{CommonName: "x"}).cert.Raw)}},
		"a file as a key id":    {"kid": "../../../../" + file},
		"what must be known":    {"kid": "k1", "crit": []string{"exp"}},
		"a key id that is none": {"kid": 7},
	} {
		token := jwt.NewWithClaims(jwt.SigningMethodES256, claims(nil))
		for k, v := range header {
			token.Header[k] = v
		}
		signed, err := token.SignedString(thief.key)
		if err != nil {
			t.Fatal(err)
		}
		if answer, id, _ := step(t, begin(t, s, OAuthBearer, nil), "n,,\x01auth=Bearer "+signed+"\x01\x01"); id != nil || answer != invalidToken {
			t.Errorf("%s: %q %v", what, answer, id)
		}
	}
	if n := visits.Load(); n != 0 {
		t.Errorf("somebody has called %d times", n)
	}
}

// FuzzAttackByAName: two subjects of certificates have two names, and the parts of a name are those of the subject, so that no value passes for a
// part of it.
func FuzzAttackByAName(f *testing.F) {
	for _, v := range []string{"bob", "bob,OU=Admins", `bob\,OU=Admins`, "bob+OU=Admins", " bob ", "#3001", `"bob"`, "bob\x00", "bob\n,OU=Admins", "b=o<b>;", "ü", ""} {
		f.Add(v, "Admins")
		f.Add("eve", v)
	}
	rules, err := parseRules(`RULE:^CN=([^,]*),OU=Admins$/admin/,DEFAULT`)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, cn, ou string) {
		for _, v := range []string{cn, ou} {
			der, err := asn1.MarshalWithParams(v, "utf8")
			if err != nil {
				t.Skip("no text of a certificate")
			}
			var back string
			if _, err := asn1.Unmarshal(der, &back); err != nil || back != v {
				t.Skip("no text of a certificate")
			}
		}
		if cn == "" || ou == "" {
			return
		}
		x := issue(t, nil, pkix.Name{CommonName: cn, OrganizationalUnit: []string{ou}}).cert
		dn, err := distinguishedName(x)
		if err != nil {
			t.Fatal(err)
		}
		if gotCN, gotOU, ok := readName(dn); !ok || gotCN != cn || gotOU != ou {
			t.Errorf("CN %q, OU %q is %q, which reads as %q and %q", cn, ou, dn, gotCN, gotOU)
		}
		name, err := rules.principal(x)
		if err != nil || name == "User:admin" && ou != "Admins" {
			t.Errorf("CN %q, OU %q is %q (%v)", cn, ou, name, err)
		}
	})
}

// readName reads CN=…,OU=… back.
func readName(dn string) (cn, ou string, ok bool) {
	rest, ok := strings.CutPrefix(dn, "CN=")
	if !ok {
		return "", "", false
	}
	value := func() string {
		var out strings.Builder
		for i := 0; i < len(rest); i++ {
			switch c := rest[i]; {
			case c == ',':
				rest = rest[i:]
				return out.String()
			case c == '\\' && i+2 < len(rest) && strings.ContainsRune("01234567", rune(rest[i+1])) && strings.ContainsRune("0123456789ABCDEF", rune(rest[i+2])):
				out.WriteByte(hexDigit(rest[i+1])<<4 | hexDigit(rest[i+2]))
				i += 2
			case c == '\\' && i+1 < len(rest):
				i++
				out.WriteByte(rest[i])
			default:
				out.WriteByte(c)
			}
		}
		rest = ""
		return out.String()
	}
	cn = value()
	if rest, ok = strings.CutPrefix(rest, ",OU="); !ok {
		return "", "", false
	}
	ou = value()
	return cn, ou, rest == ""
}

func hexDigit(c byte) byte {
	return byte(strings.IndexByte("0123456789ABCDEF", c))
}

// TestAttackByTime: what a client sends is compared with a secret in constant time only. This package may compare bytes in no other way but where
// both sides are public.
func TestAttackByTime(t *testing.T) {
	public := map[string]int{"load": 1} // of a key set that was fetched with the last one
	files := token.NewFileSet()
	constant := 0
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return err
		}
		file, err := parser.ParseFile(files, name, nil, 0)
		if err != nil {
			return err
		}
		for _, decl := range file.Decls {
			f, ok := decl.(*ast.FuncDecl)
			if !ok {
				continue
			}
			ast.Inspect(f, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.CallExpr:
					s, ok := n.Fun.(*ast.SelectorExpr)
					if !ok {
						return true
					}
					x, _ := s.X.(*ast.Ident)
					switch {
					case x == nil:
					case x.Name == "subtle" && s.Sel.Name == "ConstantTimeCompare", x.Name == "hmac" && s.Sel.Name == "Equal":
						constant++
					case (x.Name == "bytes" || x.Name == "slices") && (s.Sel.Name == "Equal" || s.Sel.Name == "Compare") || x.Name == "reflect" && s.Sel.Name == "DeepEqual":
						if public[f.Name.Name]--; public[f.Name.Name] < 0 {
							t.Errorf("%s: %s.%s in %s stops at the first difference", files.Position(n.Pos()), x.Name, s.Sel.Name, f.Name.Name)
						}
					}
				case *ast.BinaryExpr:
					if n.Op != token.EQL && n.Op != token.NEQ {
						return true
					}
					for _, side := range []ast.Expr{n.X, n.Y} {
						for _, secret := range []string{"password", "want", "StoredKey", "ServerKey"} {
							if mentions(side, secret) && !isEmptyText(n.X) && !isEmptyText(n.Y) {
								t.Errorf("%s: %s is compared by %s in %s", files.Position(n.Pos()), secret, n.Op, f.Name.Name)
							}
						}
					}
				}
				return true
			})
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if constant == 0 {
		t.Error("nothing is compared in constant time")
	}
}

func mentions(e ast.Expr, name string) bool {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name == name
	case *ast.SelectorExpr:
		return e.Sel.Name == name
	}
	return false
}

func isEmptyText(e ast.Expr) bool {
	l, ok := e.(*ast.BasicLit)
	return ok && l.Value == `""`
}
