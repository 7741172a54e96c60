// Writes the official descriptor of CSI to the standard output, as a binary FileDescriptorProto.
package main

import (
	"os"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
)

func main() {
	file := (&csi.ProbeRequest{}).ProtoReflect().Descriptor().ParentFile()
	bytes, err := proto.Marshal(protodesc.ToFileDescriptorProto(file))
	if err != nil {
		panic(err)
	}
	if _, err := os.Stdout.Write(bytes); err != nil {
		panic(err)
	}
}
