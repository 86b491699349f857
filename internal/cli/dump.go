package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"moldau/internal/storage"
)

func newLogDump(c *command) *cobra.Command {
	var records bool
	cmd := &cobra.Command{
		Use: "dump {FILE | DIR}...", Short: "Print what is in the files of a log directory, and check them",
		Long: "Print what is in the files of a log directory, and check them. Nothing is written.\n\n" +
			"It knows segments (.log, .index, .timeindex, .txnindex), producer snapshots (.snapshot),\n" +
			"leader-epoch-checkpoint, partition.metadata, meta.properties, the *-checkpoint files and\n" +
			"the manifest of the metadata directory, and the journal of a log dir (moldau-journal-N).\n" +
			"Of a directory it takes all such files below it. Indexes are compared with the .log beside them.\n" +
			"What is wrong is a line that begins with PROBLEM, and the exit code is then 1.\n" +
			"With -o json every line is one JSON object.",
		Example: "  moldau log dump moldau-data/log/orders-0\n" +
			"  moldau log dump --records 00000000000000000000.log\n  moldau log dump /var/lib/kafka -o json | grep problem",
		Args: atLeast(1, "one or more files or directories"),
		RunE: func(cmd *cobra.Command, args []string) error {
			out := bufio.NewWriterSize(c.Stdout, 64<<10)
			d := &dumper{out: out, json: c.json(), records: records}
			err := d.all(cmd.Context(), args)
			if flushErr := out.Flush(); err == nil {
				err = flushErr
			}
			if err != nil || d.problems == 0 {
				return err
			}
			return &failure{cause: plural(d.problems, "problem") + " found", value: plural(d.files, "file")}
		},
	}
	cmd.Flags().BoolVar(&records, "records", false, "the records of each batch too: keys, values and headers")
	return cmd
}

// dumper prints files, one line for each thing in them. It holds at most one batch in memory.
type dumper struct {
	out      *bufio.Writer
	json     bool
	records  bool
	ctx      context.Context
	file     string // the one being read
	files    int64
	problems int64
}

// dumpers tells by the end of a name how to read a file. Longer ends come first.
var dumpers = []struct {
	suffix string
	dump   func(*dumper, *os.File, int64) error
}{
	{".txnindex", (*dumper).txnIndex},
	{".timeindex", (*dumper).timeIndex},
	{".index", (*dumper).offsetIndex},
	{".log", (*dumper).segment},
	{".snapshot", (*dumper).producerSnapshot},
	{"leader-epoch-checkpoint", (*dumper).leaderEpochs},
	{"-checkpoint", (*dumper).offsetCheckpoint},
	{"partition.metadata", (*dumper).properties},
	{"meta.properties", (*dumper).properties},
	{"manifest", (*dumper).manifest},
}

func dumperOf(name string) func(*dumper, *os.File, int64) error {
	for _, suffix := range []string{".deleted", ".cleaned", ".swap"} { // as Kafka renames segments
		name = strings.TrimSuffix(name, suffix)
	}
	if strings.HasPrefix(name, storage.JournalName) {
		return (*dumper).journal
	}
	for _, d := range dumpers {
		if strings.HasSuffix(name, d.suffix) {
			return d.dump
		}
	}
	return nil
}

func (d *dumper) all(ctx context.Context, names []string) error {
	d.ctx = ctx
	for _, name := range names {
		info, err := os.Stat(name)
		if err != nil {
			return &failure{cause: "it cannot be read", value: err.Error(), err: err}
		}
		if !info.IsDir() {
			dump := dumperOf(filepath.Base(name))
			if dump == nil {
				return &failure{cause: "this kind of file is not known", value: name, help: "moldau log dump --help names those that are"}
			}
			if err := d.one(name, dump); err != nil {
				return err
			}
			continue
		}
		err = filepath.WalkDir(name, func(path string, entry fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if dump := dumperOf(entry.Name()); dump != nil && entry.Type().IsRegular() {
				return d.one(path, dump)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (d *dumper) one(name string, dump func(*dumper, *os.File, int64) error) error {
	f, err := os.Open(name)
	if err != nil {
		return &failure{cause: "it cannot be read", value: err.Error(), err: err}
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	d.file = name
	d.files++
	if !d.json {
		fmt.Fprintf(d.out, "%s: %s\n", printable(name), plural(info.Size(), "byte"))
	}
	if err := dump(d, f, info.Size()); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return d.ctx.Err()
}

// field is one fact of a line. Its value is an integer, a bool, a string, a
// millis, []byte (nil: null) or []field.
type field struct {
	name  string
	value any
}

// millis is a time in milliseconds since 1970, which people see as a date.
type millis int64

// problem reports damage at a position of the current file; -1 means the file as a whole.
func (d *dumper) problem(position int64, format string, args ...any) error {
	d.problems++
	return d.emit("problem", position, field{"message", fmt.Sprintf(format, args...)})
}

// emit prints one line. Its error is that of the output, and of an interrupt.
func (d *dumper) emit(kind string, position int64, fields ...field) error {
	if err := d.ctx.Err(); err != nil {
		return err
	}
	if d.json {
		head := []field{{"kind", kind}, {"file", d.file}}
		if position >= 0 {
			head = append(head, field{"position", position})
		}
		_, err := d.out.Write(append(appendJSON(nil, append(head, fields...)), '\n'))
		return err
	}
	line := []byte("  ")
	if kind == "record" || kind == "control" {
		line = append(line, "    "...)
	} else if position >= 0 {
		line = append(line, '@')
		line = strconv.AppendInt(line, position, 10)
		line = append(line, ' ')
	}
	if kind == "problem" {
		line = append(append(line, "PROBLEM "...), printable(fields[0].value.(string))...)
	} else {
		line = append(line, kind...)
		for _, f := range fields {
			line = append(append(append(line, ' '), f.name...), '=')
			line = appendText(line, f.value)
		}
	}
	_, err := d.out.Write(append(line, '\n'))
	return err
}

func appendText(dst []byte, value any) []byte {
	switch v := value.(type) {
	case string:
		if v == "" || strings.ContainsFunc(v, func(r rune) bool { return r <= ' ' || r == '"' || r == 0x7f || r == utf8.RuneError }) {
			return strconv.AppendQuote(dst, v)
		}
		return append(dst, v...)
	case []byte:
		if v == nil {
			return append(dst, "null"...)
		}
		return strconv.AppendQuote(dst, string(v))
	case millis:
		if v < 0 {
			return append(dst, "none"...)
		}
		return time.UnixMilli(int64(v)).UTC().AppendFormat(dst, "2006-01-02T15:04:05.000Z")
	case []field:
		dst = append(dst, '[')
		for i, f := range v {
			if i > 0 {
				dst = append(dst, ' ')
			}
			dst = append(appendText(dst, f.name), '=')
			dst = appendText(dst, f.value)
		}
		return append(dst, ']')
	}
	return fmt.Append(dst, value)
}

// appendJSON prints fields as an object in their order; bytes as consume does.
func appendJSON(dst []byte, fields []field) []byte {
	dst = append(dst, '{')
	for i, f := range fields {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(appendJSONValue(dst, f.name), ':')
		switch v := f.value.(type) {
		case millis:
			dst = strconv.AppendInt(dst, int64(v), 10)
		case []byte:
			text, encoding := encodeBytes(v)
			dst = appendJSONValue(dst, text)
			if encoding != "" {
				dst = append(appendJSONValue(append(dst, ','), f.name+"Encoding"), `:"`+encoding+`"`...)
			}
		case []field:
			dst = append(dst, '[')
			for j, h := range v {
				if j > 0 {
					dst = append(dst, ',')
				}
				dst = appendJSON(dst, []field{{"key", []byte(h.name)}, {"value", h.value}})
			}
			dst = append(dst, ']')
		default:
			dst = appendJSONValue(dst, v)
		}
	}
	return append(dst, '}')
}

func appendJSONValue(dst []byte, v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic("BUG: " + err.Error()) // only strings, numbers and booleans come here
	}
	return append(dst, bytes.TrimRight(b.Bytes(), "\n")...)
}

// readFullAt fills p from off on; io.ErrUnexpectedEOF when the file ends within it.
func readFullAt(f io.ReaderAt, p []byte, off int64) error {
	n, err := f.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
