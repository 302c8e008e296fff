import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.stream.Stream;
import org.mustangproject.validator.ZUGFeRDValidator;

/** Puts every PDF that has an XML beside it before Mustang; ends with 1 if it minds any. It has a veraPDF of its own. */
public final class Validate {
    public static void main(String[] arguments) throws Exception {
        List<Path> files;
        try (Stream<Path> found = Files.list(Path.of(arguments[0]))) {
            files = found.filter(file -> file.toString().endsWith(".pdf")).filter(Validate::carriesData).sorted().toList();
        }
        int passed = 0;
        for (Path file : files) {
            ZUGFeRDValidator validator = new ZUGFeRDValidator();
            validator.disableNotices();
            String report = validator.validate(file.toString());
            if (validator.wasCompletelyValid()) {
                passed++;
            } else {
                System.out.println(file.getFileName() + ": Mustang: " + report);
            }
        }
        System.out.println("Mustang: " + passed + " of " + files.size() + " passed");
        System.exit(passed == files.size() && passed > 0 ? 0 : 1);
    }

    private static boolean carriesData(Path file) {
        return Files.exists(Path.of(file.toString().replace(".pdf", ".xml")));
    }
}
